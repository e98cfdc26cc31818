"""The distance at infinite N: the line, its bias, its refusals."""

import numpy as np
import pytest

from evalsuite.errors import DataError
from evalsuite.metrics.frechet import frechet_distance, reference_factor
from evalsuite.metrics.frechet_infinity import frechet_at_infinity, smallest_size
from evalsuite.metrics.moments import Moments, moments_of

DIM = 10
SPREADS_D = np.geomspace(1.0, 0.3, DIM)
TRUTH = reference_factor(Moments(10**9, np.zeros(DIM), np.diag(SPREADS_D**2)))


def draw(seed, count=1000, scale=1.2):
    return scale * np.random.default_rng(seed).normal(size=(count, DIM)) * SPREADS_D


def test_points_run_from_the_papers_smallest_to_all_and_lie_on_least_squares():
    features_ND = draw(0)
    result = frechet_at_infinity(features_ND, TRUTH)
    assert result.sizes_P[0] == 100
    assert result.sizes_P[-1] == 1000
    assert len(result.sizes_P) == 15
    assert np.ptp(np.diff(result.sizes_P)) <= 1
    whole = frechet_distance(moments_of(features_ND), TRUTH)
    assert result.distances_P[-1] == pytest.approx(whole, rel=1e-10)
    slope, intercept = np.polyfit(1 / np.array(result.sizes_P), result.distances_P, 1)
    assert result.value == pytest.approx(intercept, rel=1e-9)
    assert result.slope == pytest.approx(slope, rel=1e-9)
    assert result.residual > 0


@pytest.mark.parametrize("count", [1000, 1003])
def test_each_distance_is_that_of_its_run_of_the_order(count):
    """Around the end of the order too; an order that is written down here again."""
    features_ND = draw(1, count)
    result = frechet_at_infinity(features_ND, TRUTH)
    order_N = np.random.default_rng(0).permutation(count)
    start = 0
    for size, distance in zip(result.sizes_P, result.distances_P, strict=True):
        rows_N = order_N[np.arange(start, start + size) % count]
        alone = frechet_distance(moments_of(features_ND[rows_N]), TRUTH)
        assert distance == pytest.approx(alone, rel=1e-10)
        start += size


def test_smallest_size_is_that_of_the_paper_where_it_can_be():
    assert smallest_size(50_000, 1024) == 5000
    assert smallest_size(20_000, 2048) == 8192
    assert smallest_size(10_000, 64) == 1000
    assert smallest_size(200_000, 1024) == 5000


@pytest.mark.parametrize("samples_per_dim", [8, 40])
def test_most_of_the_bias_of_finite_n_goes(samples_per_dim):
    true = 0.2**2 * float((SPREADS_D**2).sum())
    plain, limits = [], []
    for seed in range(60):
        features_ND = draw(seed, samples_per_dim * DIM)
        plain.append(frechet_distance(moments_of(features_ND), TRUTH))
        limits.append(frechet_at_infinity(features_ND, TRUTH).value)
    bias = np.mean(plain) - true
    assert bias > 5 * np.std(plain) / np.sqrt(60)
    assert abs(np.mean(limits) - true) < 0.25 * bias


def test_it_is_the_same_each_time_and_uses_every_sample():
    features_ND = draw(1)
    first = frechet_at_infinity(features_ND, TRUTH)
    assert first.value == frechet_at_infinity(features_ND, TRUTH).value
    for index in (0, 499, 999):
        moved_ND = features_ND.copy()
        moved_ND[index] += 1.0
        assert frechet_at_infinity(moved_ND, TRUTH).value != first.value


def test_what_makes_no_line_is_refused():
    with pytest.raises(DataError, match=r"at least 80 samples with 10 feature dim.*are 79"):
        frechet_at_infinity(draw(0, 79), TRUTH)
    with pytest.raises(DataError, match="features are float16"):
        frechet_at_infinity(draw(0).astype(np.float16), TRUTH)
    for sizes in ([100, 200], [100, 100, 100], [1, 50, 100], [100, 500, 1001]):
        with pytest.raises(ValueError, match="a line needs at least 3 sizes"):
            frechet_at_infinity(draw(0), TRUTH, sizes=sizes)
