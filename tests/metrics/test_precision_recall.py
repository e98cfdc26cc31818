"""Precision and recall: cases by hand, brute force, tiles, and the naive jackknife."""

import numpy as np
import pytest
from evalsuite.metrics.precision_recall import precision_recall, precision_recall_with_errors

from evalsuite.errors import DataError
from evalsuite.metrics.intervals import balanced_groups


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def brute_force(features_ND, reference_MD, k):
    """The definition, in float64 with whole matrices."""

    def squared(u, v):
        return ((u[:, None, :] - v[None, :, :]) ** 2).sum(axis=2)

    features_ND, reference_MD = features_ND.astype(np.float64), reference_MD.astype(np.float64)
    radii_M = np.sort(squared(reference_MD, reference_MD), axis=1)[:, k]
    radii_N = np.sort(squared(features_ND, features_ND), axis=1)[:, k]
    cross_MN = squared(reference_MD, features_ND)
    return (
        (cross_MN <= radii_M[:, None]).any(axis=0).mean(),
        (cross_MN <= radii_N[None, :]).any(axis=1).mean(),
    )


def lattice(seed, count, dim=3, width=6):
    """Small integers: exact in float32, and full of ties and duplicates."""
    return np.random.default_rng(seed).integers(0, width, size=(count, dim)).astype(np.float32)


def test_a_point_at_exactly_the_radius_is_inside():
    # k = 1: the reference's balls are [-1, 1], [0, 2] and [2, 18]; the samples' have radius 1.
    reference_MD = column(0, 1, 10)
    assert precision_recall(column(2, 3), reference_MD, k=1) == (1.0, 1 / 3)
    assert precision_recall(column(-1, -2), reference_MD, k=1) == (0.5, 1 / 3)
    assert precision_recall(column(-1.125, -2.125), reference_MD, k=1) == (0.0, 0.0)


def test_the_kth_neighbour_is_counted_without_the_point_itself():
    reference_MD = column(0, 1, 3, 7)
    far = column(100, 101, 103, 110)
    # Third other neighbours: radii 7, 6, 4, 7. The largest reach is 7 + 7 = 14.
    assert precision_recall(np.concatenate((column(14), far)), reference_MD).precision == 0.2
    assert precision_recall(np.concatenate((column(14.5), far)), reference_MD).precision == 0.0


def test_duplicates_are_neighbours_at_distance_zero():
    reference_MD = np.zeros((4, 2))
    samples_ND = np.array([[0.0, 0.0], [1e-3, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert precision_recall(samples_ND, reference_MD) == (0.2, 1.0)


def test_equal_sets_score_one_and_far_sets_zero():
    features_ND = np.random.default_rng(0).normal(size=(50, 4))
    assert precision_recall(features_ND, features_ND) == (1.0, 1.0)
    assert precision_recall(features_ND, features_ND + 100) == (0.0, 0.0)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dim", [2, 8, 40])
def test_equals_brute_force_in_float64(dim, k):
    rng = np.random.default_rng(dim)
    features_ND = (rng.normal(size=(230, dim)) * 0.9 + 0.1).astype(np.float32)
    reference_MD = rng.normal(size=(170, dim)).astype(np.float32)
    result = precision_recall(features_ND, reference_MD, k=k)
    assert result == brute_force(features_ND, reference_MD, k)
    assert 0 < result.recall < 1


def test_swapping_the_sets_swaps_the_shares_and_order_does_not_matter():
    rng = np.random.default_rng(1)
    a_ND, b_MD = rng.normal(size=(90, 5)) * 0.8, rng.normal(size=(70, 5))
    result = precision_recall(a_ND, b_MD)
    assert precision_recall(b_MD, a_ND) == (result.recall, result.precision)
    assert precision_recall(rng.permutation(a_ND), rng.permutation(b_MD)) == result
    assert result.precision != result.recall


@pytest.mark.parametrize("tile", [1, 7, 64, 100, 5000])
def test_tiles_do_not_show(tile):
    samples_ND, reference_MD = lattice(2, 100), lattice(3, 64, width=8)
    strata_N = np.arange(100) % 3
    assert precision_recall(samples_ND, reference_MD, tile=tile) == brute_force(
        samples_ND, reference_MD, 3
    )
    whole = precision_recall_with_errors(samples_ND, reference_MD, 3, strata_N, 8)
    assert precision_recall_with_errors(samples_ND, reference_MD, 3, strata_N, 8, tile) == whole


def naive_jackknife(features_ND, reference_MD, k, strata_N, num_groups):
    groups_N = balanced_groups(len(features_ND), num_groups, strata_N)
    left_out = np.array(
        [
            precision_recall(features_ND[groups_N != group], reference_MD, k)
            for group in range(num_groups)
        ]
    )
    return np.sqrt(
        (num_groups - 1) / num_groups * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    )


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
    values, errors = precision_recall_with_errors(
        samples_ND, reference_MD, k, strata_N, num_groups, tile=32
    )
    naive = naive_jackknife(samples_ND, reference_MD, k, strata_N, num_groups)
    assert values == precision_recall(samples_ND, reference_MD, k, tile=32)
    np.testing.assert_allclose(errors, naive, rtol=1e-12, atol=1e-15)
    assert naive.max() > 0


def test_jackknife_covers_precision_and_is_too_wide_for_recall():
    rng = np.random.default_rng(7)
    centres_CD = rng.normal(size=(5, 4)) * 1.5
    labels_N = np.arange(300) % 5
    reference_MD = rng.normal(size=(200, 4)) + centres_CD[np.arange(200) % 5]
    values, errors = [], []
    for _ in range(120):
        samples_ND = rng.normal(size=(300, 4)) * 1.2 + centres_CD[labels_N]
        estimate = precision_recall_with_errors(samples_ND, reference_MD, 3, labels_N, 20)
        values.append(estimate.values)
        errors.append(estimate.standard_errors)
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0, ddof=1)
    # 120 replicates know a spread to 6.5 %; recall's excess is Efron and Stein's inequality.
    assert ratio[0] == pytest.approx(1.0, abs=0.2)
    assert 1.0 < ratio[1] < 2.5


def test_sets_that_cannot_be_used_are_refused():
    good = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(DataError, match="at least 4 samples, there are 3"):
        precision_recall(good[:3], good)
    with pytest.raises(DataError, match="at least 4 reference images, there are 3"):
        precision_recall(good, good[:3])
    with pytest.raises(DataError, match="3 feature dimensions, the reference has 2"):
        precision_recall(good, good[:, :2])
    bad = good.copy()
    bad[5, 1] = np.nan
    with pytest.raises(DataError, match=r"reference features have NaN.*row 5"):
        precision_recall(good, bad)
    with pytest.raises(DataError, match="sample features are too large"):
        precision_recall(good * 1e20, good)
    with pytest.raises(DataError, match="sample features are too large"):
        precision_recall(good * 1e200, good)
    with pytest.raises(ValueError, match="k and tile"):
        precision_recall(good, good, k=0)


def test_a_jackknife_needs_groups_and_samples_beside_them():
    good = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(DataError, match="20 groups at k = 3 needs more than 19 samples"):
        precision_recall_with_errors(good[:19], good)
    with pytest.raises(DataError, match="2 groups at k = 3 needs more than 7 samples"):
        precision_recall_with_errors(good[:7], good, num_groups=2)
    precision_recall_with_errors(good[:8], good, num_groups=2)
    with pytest.raises(ValueError, match="at least 2 groups"):
        precision_recall_with_errors(good, good, num_groups=1)
    with pytest.raises(ValueError, match="strata must be 50 integers"):
        precision_recall_with_errors(good, good, 3, np.zeros(49, dtype=np.int64))
