"""The four manifold metrics: cases by hand, brute force, tiles, and the naive jackknife."""

import dataclasses

import numpy as np
import pytest

from evalsuite.errors import DataError
from evalsuite.metrics.distances import Arithmetic
from evalsuite.metrics.intervals import balanced_groups
from evalsuite.metrics.manifolds import ManifoldSettings, manifold_metrics, reference_radii

PLAIN = ManifoldSettings()


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def shares(samples_ND, reference_MD, **settings):
    return manifold_metrics(samples_ND, reference_MD, ManifoldSettings(**settings)).values


def brute_force(samples_ND, reference_MD, k, strict=False):
    """The definitions, in float64 with whole matrices."""

    def squared(u, v):
        return ((u[:, None, :] - v[None, :, :]) ** 2).sum(axis=2)

    samples_ND, reference_MD = samples_ND.astype(np.float64), reference_MD.astype(np.float64)
    inside = np.less if strict else np.less_equal
    radii_M = np.sort(squared(reference_MD, reference_MD), axis=1)[:, k]
    radii_N = np.sort(squared(samples_ND, samples_ND), axis=1)[:, k]
    cross_MN = squared(reference_MD, samples_ND)
    held_MN = inside(cross_MN, radii_M[:, None])
    return (
        held_MN.any(axis=0).mean(),
        inside(cross_MN, radii_N).any(axis=1).mean(),
        pytest.approx(held_MN.sum(axis=0).mean() / k, rel=1e-12),
        held_MN.any(axis=1).mean(),
    )


def lattice(seed, count, dim=3, width=6):
    """Small integers: exact in float32 and float16, and full of ties and duplicates."""
    return np.random.default_rng(seed).integers(0, width, size=(count, dim)).astype(np.float32)


def test_a_point_at_exactly_the_radius_is_inside_unless_strict():
    # k = 1: the reference's balls are [-1, 1], [0, 2] and [1, 19]; the samples' have radius 1.
    reference_MD = column(0, 1, 10)
    assert shares(column(2, 3), reference_MD, k=1) == (1.0, 1 / 3, 1.5, 2 / 3)
    assert shares(column(2, 3), reference_MD, k=1, strict=True) == (1.0, 0.0, 1.0, 1 / 3)
    assert shares(column(-1, -2), reference_MD, k=1) == (0.5, 1 / 3, 0.5, 1 / 3)
    assert shares(column(-1.125, -2.125), reference_MD, k=1) == (0.0, 0.0, 0.0, 0.0)


def test_the_kth_neighbour_is_counted_without_the_point_itself():
    reference_MD = column(0, 1, 3, 7)
    far = column(100, 101, 103, 110)
    # Third other neighbours: radii 7, 6, 4, 7. The largest reach is 7 + 7 = 14.
    assert reference_radii(reference_MD, PLAIN).tolist() == [49, 36, 16, 49]
    assert shares(np.concatenate((column(14), far)), reference_MD).precision == 0.2
    assert shares(np.concatenate((column(14.5), far)), reference_MD).precision == 0.0


def test_duplicates_are_neighbours_at_distance_zero():
    reference_MD = np.zeros((4, 2))
    samples_ND = np.array([[0.0, 0.0], [1e-3, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert shares(samples_ND, reference_MD) == (0.2, 1.0, pytest.approx(4 / 5 / 3), 1.0)


@pytest.mark.parametrize("arithmetic", list(Arithmetic))
def test_equal_sets_score_one_and_far_sets_zero(arithmetic):
    features_ND = np.random.default_rng(0).normal(size=(50, 4))
    equal = shares(features_ND, features_ND, arithmetic=arithmetic)
    assert (equal.precision, equal.recall, equal.coverage) == (1.0, 1.0, 1.0)
    # Every image is in its own ball and in those of which it is one of the 3 neighbours.
    assert equal.density >= 4 / 3 - 1e-12
    assert shares(features_ND, features_ND + 100, arithmetic=arithmetic) == (0, 0, 0, 0)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dim", [2, 8, 40])
def test_equals_brute_force_in_float64(dim, k, strict):
    rng = np.random.default_rng(dim)
    samples_ND = (rng.normal(size=(230, dim)) * 0.9 + 0.1).astype(np.float32)
    reference_MD = rng.normal(size=(170, dim)).astype(np.float32)
    result = shares(samples_ND, reference_MD, k=k, strict=strict)
    assert result == brute_force(samples_ND, reference_MD, k, strict)
    assert 0 < result.recall < 1


def test_swapping_the_sets_swaps_precision_and_recall_and_order_does_not_matter():
    rng = np.random.default_rng(1)
    a_ND, b_MD = rng.normal(size=(90, 5)) * 0.8, rng.normal(size=(70, 5))
    result = shares(a_ND, b_MD)
    assert shares(b_MD, a_ND)[:2] == (result.recall, result.precision)
    assert shares(rng.permutation(a_ND), rng.permutation(b_MD)) == result
    assert result.precision != result.recall


@pytest.mark.parametrize("arithmetic", list(Arithmetic))
@pytest.mark.parametrize("tile", [9, 64, 100, 5000])
def test_tiles_do_not_show(tile, arithmetic):
    samples_ND, reference_MD = lattice(2, 100), lattice(3, 64, width=8)
    strata_N = np.arange(100) % 3
    settings = ManifoldSettings(num_groups=8, arithmetic=arithmetic)
    whole = manifold_metrics(samples_ND, reference_MD, settings, strata_N)
    assert whole.values == brute_force(samples_ND, reference_MD, 3)
    small = dataclasses.replace(settings, tile=tile)
    assert manifold_metrics(samples_ND, reference_MD, small, strata_N) == whole


def test_kept_radii_give_the_same_numbers():
    rng = np.random.default_rng(2)
    samples_ND, reference_MD = rng.normal(size=(80, 6)), rng.normal(size=(60, 6))
    for arithmetic in Arithmetic:
        settings = ManifoldSettings(arithmetic=arithmetic)
        kept = reference_radii(reference_MD, settings)
        assert (kept.dtype, kept.shape) == (np.float32, (60,))
        again = manifold_metrics(samples_ND, reference_MD, settings, reference_radii=kept)
        assert again == manifold_metrics(samples_ND, reference_MD, settings)
        wider = manifold_metrics(samples_ND, reference_MD, settings, reference_radii=kept * 100)
        assert wider.values.precision == wider.values.coverage == 1.0
    for bad in (kept[:5], kept.astype(np.float64)):
        with pytest.raises(ValueError, match=r"radii must be float32 \[60\]"):
            manifold_metrics(samples_ND, reference_MD, PLAIN, reference_radii=bad)


def naive_jackknife(samples_ND, reference_MD, settings, strata_N):
    groups_N = balanced_groups(len(samples_ND), settings.num_groups, strata_N)
    left_out = np.array(
        [
            manifold_metrics(samples_ND[groups_N != group], reference_MD, settings).values
            for group in range(settings.num_groups)
        ]
    )
    scale = (settings.num_groups - 1) / settings.num_groups
    return np.sqrt(scale * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))


@pytest.mark.parametrize("points", ["lattice", "normal", "clumps"])
@pytest.mark.parametrize(("k", "num_groups"), [(3, 20), (1, 7), (4, 2)])
@pytest.mark.parametrize("stratified", [False, True])
def test_jackknife_equals_recomputation_without_each_group(points, k, num_groups, stratified):
    rng = np.random.default_rng(4)
    samples_ND, reference_MD = lattice(5, 83), lattice(6, 60, width=7)
    if points == "normal":
        samples_ND, reference_MD = rng.normal(size=(83, 5)) * 0.9, rng.normal(size=(60, 5))
    if points == "clumps":
        # Neighbours of a sample are all in its own group, and vanish together.
        samples_ND[:, 0] += 1000 * balanced_groups(83, num_groups)
    strata_N = rng.integers(0, 4, 83) if stratified else None
    arithmetic = Arithmetic.ADM_FLOAT16 if points == "lattice" else Arithmetic.FLOAT32
    settings = ManifoldSettings(k=k, num_groups=num_groups, tile=32, arithmetic=arithmetic)
    values, errors = manifold_metrics(samples_ND, reference_MD, settings, strata_N)
    naive = naive_jackknife(samples_ND, reference_MD, settings, strata_N)
    assert values == manifold_metrics(samples_ND, reference_MD, settings).values
    np.testing.assert_allclose(errors, naive, rtol=1e-12, atol=1e-15)
    assert naive.max() > 0


def test_jackknife_covers_means_over_samples_and_is_too_wide_for_shares_of_the_reference():
    rng = np.random.default_rng(7)
    centres_CD = rng.normal(size=(5, 4)) * 1.5
    labels_N = np.arange(300) % 5
    reference_MD = (rng.normal(size=(200, 4)) + centres_CD[np.arange(200) % 5]).astype(np.float32)
    radii_M = reference_radii(reference_MD, PLAIN)
    values, errors = [], []
    for _ in range(120):
        samples_ND = (rng.normal(size=(300, 4)) * 1.2 + centres_CD[labels_N]).astype(np.float32)
        result = manifold_metrics(samples_ND, reference_MD, PLAIN, labels_N, radii_M)
        values.append(result.values)
        errors.append(result.standard_errors)
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0, ddof=1)
    # 120 replicates know a spread to 6.5 %; the excess is Efron and Stein's inequality.
    precision, recall, density, coverage = ratio
    assert precision == pytest.approx(1.0, abs=0.2)
    assert density == pytest.approx(1.0, abs=0.2)
    assert 1.0 < recall < 2.5
    assert 1.0 < coverage < 2.0


def test_images_that_every_sample_covers_are_covered():
    """Every sample's ball holds the whole reference, so that all pairs count at first."""
    rng = np.random.default_rng(8)
    samples_ND, reference_MD = rng.normal(size=(80, 9)), rng.normal(size=(70, 9)) * 1e-3
    settings = ManifoldSettings(k=5, tile=25, num_groups=4)
    values, errors = manifold_metrics(samples_ND, reference_MD, settings)
    assert (values.recall, errors.recall) == (1.0, 0.0)
    assert values.precision == values.density == values.coverage == 0.0


def test_sets_that_cannot_be_used_are_refused():
    good = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(DataError, match="at least 4 samples, there are 3"):
        shares(good[:3], good)
    with pytest.raises(DataError, match="at least 4 reference images, there are 3"):
        shares(good, good[:3])
    with pytest.raises(DataError, match="at least 4 reference images, there are 3"):
        reference_radii(good[:3], PLAIN)
    with pytest.raises(DataError, match="3 feature dimensions, the reference has 2"):
        shares(good, good[:, :2])
    bad = good.copy()
    bad[5, 1] = np.nan
    with pytest.raises(DataError, match=r"reference features have NaN.*row 5"):
        shares(good, bad)
    with pytest.raises(DataError, match="sample features are too large"):
        shares(good * 1e20, good)
    with pytest.raises(DataError, match="sample features are too large"):
        shares(good * 1e200, good)
    with pytest.raises(DataError, match="sample features are float16"):
        shares(good.astype(np.float16), good)
    with pytest.raises(ValueError, match="must be a matrix"):
        shares(good[0], good)
    for wrong in ({"k": 0}, {"tile": 0}):
        with pytest.raises(ValueError, match="k and tile"):
            ManifoldSettings(**wrong)
    with pytest.raises(ValueError, match="at least 2 groups"):
        ManifoldSettings(num_groups=1)


def test_too_few_samples_have_values_without_errors():
    good = np.random.default_rng(0).normal(size=(50, 3))
    for settings, needed in (
        (PLAIN, 40),
        (ManifoldSettings(num_groups=2), 8),
        (ManifoldSettings(k=5, num_groups=3), 9),
    ):
        assert settings.jackknife_samples == needed
        assert manifold_metrics(good[: needed - 1], good, settings).standard_errors is None
        assert manifold_metrics(good[:needed], good, settings).standard_errors is not None
    with pytest.raises(ValueError, match="strata must be 50 integers"):
        manifold_metrics(good, good, PLAIN, np.zeros(49, dtype=np.int64))
