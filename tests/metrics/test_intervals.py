"""Standard errors: formulas by hand, and simulations in which they must cover."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.errors import DataError
from evalsuite.metrics.frechet import (
    frechet_distance,
    frechet_fit,
    frechet_influence,
    halved_influence,
    reference_factor,
)
from evalsuite.metrics.inception_score import (
    consecutive_splits,
    inception_score,
    influence_of_splits,
)
from evalsuite.metrics.intervals import (
    HalvedInfluence,
    balanced_groups,
    degrees_of_freedom,
    extrapolated,
    mean_over_replicates,
    paired_standard_error,
    standard_error,
    standard_error_from_halves,
)
from evalsuite.metrics.moments import moments_of

DIM, COUNT, REPEATS = 16, 600, 200
SPREADS_D = np.geomspace(1.0, 0.2, DIM)


def test_plain_error_is_the_root_of_variance_over_count():
    assert standard_error(np.array([1.0, 2.0, 3.0, 6.0])) == pytest.approx(
        math.sqrt((4 + 1 + 0 + 9) / 3 / 4)
    )


def test_strata_leave_only_the_variance_within_classes():
    influence_N = np.array([10.0, 12.0, 0.0, 4.0, 3.0])
    strata_N = np.array([7, 7, -2, -2, -2])
    # Class means 11 and 7/3: sums of squares 2 and 26/3, 3 degrees of freedom.
    assert standard_error(influence_N, strata_N) == pytest.approx(math.sqrt((2 + 26 / 3) / 3 / 5))
    assert degrees_of_freedom(5, strata_N) == 3
    assert degrees_of_freedom(5) == 4


def test_paired_error_is_that_of_the_difference():
    rng = np.random.default_rng(0)
    a_N, b_N = rng.normal(size=50), rng.normal(size=50)
    strata_N = np.arange(50) % 5
    assert paired_standard_error(a_N, a_N) == 0.0
    assert paired_standard_error(a_N, b_N) == pytest.approx((a_N - b_N).std(ddof=1) / math.sqrt(50))
    assert paired_standard_error(a_N, b_N, strata_N) == standard_error(a_N - b_N, strata_N)


def test_errors_that_cannot_be_estimated_are_refused():
    with pytest.raises(DataError, match="from 1 samples"):
        standard_error(np.ones(1))
    with pytest.raises(DataError, match="one per class"):
        standard_error(np.ones(4), np.arange(4))
    with pytest.raises(DataError, match="NaN"):
        standard_error(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="strata must be 3 integers"):
        standard_error(np.ones(3), np.zeros(4, dtype=np.int64))
    with pytest.raises(ValueError, match="strata must be 3 integers"):
        standard_error(np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="one-dimensional"):
        standard_error(np.ones((3, 1)))
    with pytest.raises(ValueError, match="equal shapes"):
        paired_standard_error(np.ones(3), np.ones(4))


def test_extrapolation_removes_a_bias_proportional_to_one_over_count():
    assert extrapolated(5.0 + 8.0 / 100, 5.0 + 8.0 / 50) == pytest.approx(5.0, abs=1e-14)


def test_replicates_give_their_mean_and_its_error():
    assert mean_over_replicates([2.5]) == (2.5, None)
    mean, error = mean_over_replicates([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert error == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))
    with pytest.raises(ValueError, match="at least one"):
        mean_over_replicates([])


@settings(deadline=None, max_examples=100)
@given(
    labels=st.lists(st.integers(-3, 8), min_size=1, max_size=60),
    num_groups=st.integers(1, 12),
)
def test_groups_are_even_in_size_and_in_classes(labels, num_groups):
    strata_N = np.array(labels)
    groups_N = balanced_groups(len(labels), num_groups, strata_N)
    assert np.ptp(np.bincount(groups_N, minlength=num_groups)) <= 1
    for label in set(labels):
        counts = np.bincount(groups_N[strata_N == label], minlength=num_groups)
        assert np.ptp(counts) <= 1


def test_without_strata_groups_are_the_index_modulo_their_number():
    groups_N = balanced_groups(7, 3)
    assert sorted(np.bincount(groups_N).tolist()) == [2, 2, 3]
    assert groups_N.tolist() == balanced_groups(7, 3).tolist()


def test_groups_without_strata_do_not_follow_the_period_of_the_index() -> None:
    hidden_labels_N = np.arange(2000) % 10
    for num_groups in (2, 10, 20):
        groups_N = balanced_groups(2000, num_groups)
        for group in range(num_groups):
            counts = np.bincount(hidden_labels_N[groups_N == group], minlength=10)
            expected = 200 / num_groups
            assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def replicate_fid(draw_labels, centres_CD, stratified):
    """Observed spread of FID over replicates, and root mean square of the reported errors."""
    rng = np.random.default_rng(2024)
    num_classes = len(centres_CD)
    reference_ND = rng.normal(size=(3000, DIM)) * SPREADS_D * 1.2 + 0.2
    reference_ND += centres_CD[rng.integers(0, num_classes, 3000)]
    reference = moments_of(reference_ND)
    values, plain, within = [], [], []
    for _ in range(REPEATS):
        labels_N = draw_labels(rng, num_classes)
        features_ND = rng.normal(size=(COUNT, DIM)) * SPREADS_D + centres_CD[labels_N]
        sample = moments_of(features_ND)
        values.append(frechet_distance(sample, reference))
        influence_N = frechet_influence(features_ND, sample, reference)
        plain.append(standard_error(influence_N))
        if stratified:
            within.append(standard_error(influence_N, labels_N))
    observed = float(np.std(values, ddof=1))
    errors = np.sqrt(np.mean(np.square(within if stratified else plain)))
    return observed, float(errors), float(np.sqrt(np.mean(np.square(plain))))


def random_labels(rng, num_classes):
    return rng.integers(0, num_classes, COUNT)


def balanced_labels(_rng, num_classes):
    return np.arange(COUNT) % num_classes


def test_reported_fid_error_is_the_observed_spread():
    observed, reported, _ = replicate_fid(random_labels, np.zeros((1, DIM)), stratified=False)
    # 200 replicates know the spread to 5 %.
    assert reported == pytest.approx(observed, rel=0.15)


def test_balanced_labels_need_the_stratified_error():
    centres_CD = np.random.default_rng(5).normal(size=(6, DIM)) * SPREADS_D
    observed, reported, plain = replicate_fid(balanced_labels, centres_CD, stratified=True)
    assert reported == pytest.approx(observed, rel=0.15)
    assert plain > 1.2 * observed


def test_random_labels_need_the_plain_error():
    centres_CD = np.random.default_rng(5).normal(size=(6, DIM)) * SPREADS_D
    observed, reported, _ = replicate_fid(random_labels, centres_CD, stratified=False)
    assert reported == pytest.approx(observed, rel=0.15)


def test_paired_error_covers_the_difference_of_two_plans_that_share_noise():
    rng = np.random.default_rng(11)
    reference = moments_of(rng.normal(size=(3000, DIM)) * SPREADS_D)
    differences, paired, unpaired = [], [], []
    for _ in range(REPEATS):
        noise_ND = rng.normal(size=(COUNT, DIM)) * SPREADS_D
        influences, distances = [], []
        for scale, shift in ((1.1, 0.1), (1.15, 0.12)):
            features_ND = noise_ND * scale + shift
            sample = moments_of(features_ND)
            distances.append(frechet_distance(sample, reference))
            influences.append(frechet_influence(features_ND, sample, reference))
        differences.append(distances[0] - distances[1])
        paired.append(paired_standard_error(*influences))
        unpaired.append(math.hypot(*map(standard_error, influences)))
    observed = np.std(differences, ddof=1)
    assert np.sqrt(np.mean(np.square(paired))) == pytest.approx(observed, rel=0.15)
    assert np.mean(unpaired) > 2 * observed


def halves_by_hand(influence_N, in_halves_N, halves_N):
    whole = influence_N.var(ddof=1)
    parts = [in_halves_N[halves_N == half].var(ddof=1) for half in (0, 1)]
    return whole - (sum(parts) / 2 - whole) / 2


def test_errors_from_halves_take_back_what_halves_have_in_excess():
    rng = np.random.default_rng(1)
    influence_N, halves_N = rng.normal(size=40), np.arange(40) % 2
    halved = HalvedInfluence(influence_N, 1.3 * influence_N, halves_N)
    expected = math.sqrt(halves_by_hand(influence_N, 1.3 * influence_N, halves_N) / 40)
    assert standard_error_from_halves(halved) == pytest.approx(expected, rel=1e-12)
    assert expected < standard_error(influence_N)
    # The excess is at most half of the whole, however noisy the halves are.
    noisy = HalvedInfluence(influence_N, 9.0 * influence_N, halves_N)
    floor = standard_error(influence_N) / math.sqrt(2)
    assert standard_error_from_halves(noisy) == pytest.approx(floor, rel=1e-12)


@pytest.mark.parametrize("balanced", [False, True])
def test_close_to_the_reference_only_the_error_from_halves_is_the_spread(balanced):
    rng = np.random.default_rng(3)
    centres_CD = rng.normal(size=(4, DIM)) * 0.3
    reference = reference_factor(
        moments_of(rng.normal(size=(4000, DIM)) + centres_CD[rng.integers(0, 4, 4000)])
    )
    values, plain, corrected = [], [], []
    for _ in range(REPEATS):
        labels_N = np.arange(160) % 4 if balanced else rng.integers(0, 4, 160)
        strata_N = labels_N if balanced else None
        features_ND = rng.normal(size=(160, DIM)) + centres_CD[labels_N]
        fit = frechet_fit(moments_of(features_ND), reference)
        halved = halved_influence(features_ND, fit, reference, strata_N)
        values.append(fit.value)
        plain.append(standard_error(halved.influence_N, strata_N))
        corrected.append(standard_error_from_halves(halved, strata_N))
    observed = np.std(values, ddof=1)
    assert np.sqrt(np.mean(np.square(corrected))) == pytest.approx(observed, rel=0.2)
    assert np.sqrt(np.mean(np.square(plain))) > 1.25 * observed


def test_reported_inception_score_error_is_the_observed_spread():
    rng = np.random.default_rng(3)
    splits = consecutive_splits(500, 200)
    values, errors = [], []
    for _ in range(REPEATS):
        p_NK = np.exp(rng.normal(size=(500, 8)) * rng.uniform(0.2, 4.0, size=(500, 1)))
        p_NK /= p_NK.sum(axis=1, keepdims=True)
        # Two full splits and a short one that weighs as much.
        values.append(inception_score(p_NK, 200))
        errors.append(standard_error(influence_of_splits(p_NK, splits)))
    observed = np.std(values, ddof=1)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(observed, rel=0.15)
