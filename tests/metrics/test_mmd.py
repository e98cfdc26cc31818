"""Discrepancies: brute force, tiles, unbiasedness, influence, refusals."""

import math

import numpy as np
import pytest

from evalsuite.errors import DataError
from evalsuite.metrics import mmd
from evalsuite.metrics.intervals import standard_error
from evalsuite.metrics.mmd import (
    CubicKernel,
    GaussianKernel,
    biased_mmd,
    cmmd,
    cmmd_reference,
    kernel_reference,
    unbiased_mmd,
)

KERNELS = [CubicKernel(), GaussianKernel(3.0)]


def draw(seed, count=40, dim=5, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, dim)) + shift


def matrix(kernel, x_ND, y_MD):
    """All kernel values, written out as the definitions have them."""
    if isinstance(kernel, CubicKernel):
        return (x_ND @ y_MD.T / x_ND.shape[1] + 1) ** 3
    squared_NM = ((x_ND[:, None] - y_MD) ** 2).sum(axis=2)
    return np.exp(-squared_NM / (2 * kernel.sigma**2))


def by_weights(kernel, x_ND, y_MD, weights_N):
    """The V-statistic when sample i has weight i."""
    within = weights_N @ matrix(kernel, x_ND, x_ND) @ weights_N
    across = weights_N @ matrix(kernel, x_ND, y_MD).mean(axis=1)
    return within - 2 * across + matrix(kernel, y_MD, y_MD).mean()


@pytest.fixture(params=[7, 40, 4096])
def _tile(request, monkeypatch):
    monkeypatch.setattr(mmd, "_TILE_ROWS", request.param)


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_sums_over_the_whole_matrix_whatever_the_tile(kernel):
    x_ND, y_MD = draw(0, 40), draw(1, 23, shift=0.4)
    xx, yy, xy = (matrix(kernel, *pair) for pair in ((x_ND, x_ND), (y_MD, y_MD), (x_ND, y_MD)))
    unlike = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    reference = kernel_reference(y_MD, kernel)
    expected = sum(unlike) - 2 * xy.mean()
    assert unbiased_mmd(x_ND, reference).value == pytest.approx(expected, rel=1e-11)
    expected = xx.mean() + yy.mean() - 2 * xy.mean()
    assert biased_mmd(x_ND, reference).value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_keeps_small_discrepancies(kernel):
    x_ND, y_MD = draw(2, 300, 20, shift=1.0), draw(3, 200, 20, shift=1.0)
    double = unbiased_mmd(x_ND, kernel_reference(y_MD, kernel))
    single = unbiased_mmd(
        x_ND.astype(np.float32), kernel_reference(y_MD.astype(np.float32), kernel)
    )
    assert single.value == pytest.approx(double.value, abs=1e-6 * np.abs(double.influence_N).max())
    np.testing.assert_allclose(
        single.influence_N, double.influence_N, atol=3e-6 * np.abs(double.influence_N).max()
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_influence_is_the_derivative_in_the_weight_of_a_sample(kernel):
    x_ND, y_MD = draw(4, 12), draw(5, 9, shift=0.5)
    influence_N = biased_mmd(x_ND, kernel_reference(y_MD, kernel)).influence_N
    even_N, step = np.full(12, 1 / 12), 1e-6
    for index in range(12):
        towards_N = np.eye(12)[index] - even_N
        ahead, behind = (
            by_weights(kernel, x_ND, y_MD, even_N + s * towards_N) for s in (step, -step)
        )
        assert influence_N[index] == pytest.approx((ahead - behind) / (2 * step), abs=1e-6)
    assert abs(influence_N.mean()) < 1e-14


def test_the_mean_over_repeats_is_the_true_distance_and_its_error_the_spread():
    # Linear in moments: E (1 + x.y / D)^3 of unit normals at means 0 and m, in one dimension:
    # E k(x,x') = 1 + 3 E x^2 x'^2 = 4 at 0, and the same with m where they have it.
    rng, mean = np.random.default_rng(6), 0.5
    moments = [1, mean, 1 + mean**2, 3 * mean + mean**3]
    zero = [1, 0, 1, 0]

    def expected_kernel(a, b):
        return sum(math.comb(3, k) * a[k] * b[k] for k in range(4))

    reference = kernel_reference(rng.normal(size=(1500, 1)), CubicKernel())
    truth = expected_kernel(moments, moments) + expected_kernel(zero, zero)
    truth -= 2 * expected_kernel(moments, zero)
    results = [unbiased_mmd(rng.normal(mean, size=(200, 1)), reference) for _ in range(120)]
    values = np.array([result.value for result in results])
    errors = np.array([standard_error(result.influence_N) for result in results])
    assert values.mean() == pytest.approx(truth, abs=0.25 * truth)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(ddof=1), rel=0.2)


def test_equal_sets_have_no_biased_discrepancy():
    x_ND = draw(7)
    assert biased_mmd(x_ND, kernel_reference(x_ND, GaussianKernel(2.0))).value == pytest.approx(
        0.0, abs=1e-15
    )
    assert cmmd(x_ND, cmmd_reference(x_ND)).value == pytest.approx(0.0, abs=1e-11)


def test_cmmd_is_a_thousand_times_the_discrepancy_of_directions():
    x_ND, y_MD = draw(8), draw(9, shift=0.3)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x_ND, y_MD)]
    result = cmmd(x_ND * 5.0, cmmd_reference(y_MD))
    even_N = np.full(40, 1 / 40)
    assert result.value == pytest.approx(1000 * by_weights(GaussianKernel(10.0), *unit, even_N))
    plain = biased_mmd(unit[0], kernel_reference(unit[1], GaussianKernel(10.0)))
    np.testing.assert_allclose(result.influence_N, 1000 * plain.influence_N, atol=1e-12)


def test_features_that_cannot_be_compared_are_refused():
    reference = kernel_reference(draw(0), CubicKernel())
    with pytest.raises(DataError, match=r"float64 with 4 dimensions.*float64 with 5"):
        unbiased_mmd(draw(0, dim=4), reference)
    with pytest.raises(DataError, match="float32 with 5 dimensions"):
        unbiased_mmd(draw(0).astype(np.float32), reference)
    with pytest.raises(DataError, match="features are float16"):
        unbiased_mmd(draw(0).astype(np.float16), reference)
    with pytest.raises(DataError, match="at least 2 reference features, there are 1"):
        kernel_reference(draw(0, count=1), CubicKernel())
    with pytest.raises(DataError, match="at least 2 features, there are 1"):
        biased_mmd(draw(0, count=1), reference)
    bad_ND = draw(0)
    bad_ND[3, 2] = np.nan
    with pytest.raises(DataError, match="first is row 3"):
        unbiased_mmd(bad_ND, reference)
    bad_ND[3] = 0.0
    with pytest.raises(DataError, match="length 0 in row 3"):
        cmmd_reference(bad_ND)
