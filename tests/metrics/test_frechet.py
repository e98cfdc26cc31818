"""Frechet distance and influence: truths, other routes, numeric derivatives, singular cases."""

import warnings

import mpmath
import numpy as np
import pytest
import scipy.linalg

from evalsuite.errors import DataError
from evalsuite.metrics.frechet import (
    frechet_distance,
    frechet_distance_of_few,
    frechet_fit,
    frechet_influence,
    halved_influence,
    halves_suffice,
    moments_in_halves,
    reference_factor,
)
from evalsuite.metrics.moments import Moments, moments_of


def draw(seed, count=200, dim=6, scale=1.0, shift=0.0):
    """Correlated features with uneven variances."""
    rng = np.random.default_rng(seed)
    mix_DD = rng.normal(size=(dim, dim)) * np.geomspace(1, 0.1, dim)
    return (rng.normal(size=(count, dim)) @ mix_DD) * scale + shift


def by_sqrtm(a, b):
    """The textbook route, fit for full rank only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        root_DD = scipy.linalg.sqrtm(a.cov_DD @ b.cov_DD)
    difference_D = a.mean_D - b.mean_D
    return difference_D @ difference_D + np.trace(a.cov_DD + b.cov_DD - 2 * np.real(root_DD))


@pytest.mark.parametrize(("count", "dim"), [(300, 8), (20, 50), (2, 5)])
def test_a_set_has_no_distance_to_itself(count, dim):
    moments = moments_of(draw(0, count, dim, shift=5.0))
    trace = np.trace(moments.cov_DD)
    assert 0 <= frechet_distance(moments, moments) < 1e-13 * trace


def test_equal_covariances_leave_the_squared_distance_of_the_means():
    features_ND = draw(1)
    shift_D = np.array([3.0, 0, 0, -4.0, 0, 0])
    distance = frechet_distance(moments_of(features_ND), moments_of(features_ND + shift_D))
    assert distance == pytest.approx(25.0, rel=1e-11)


def test_diagonal_covariances_have_a_closed_form():
    a_D, b_D = np.array([4.0, 1.0, 0.0, 9.0]), np.array([1.0, 1.0, 16.0, 0.0])
    a = Moments(100, np.zeros(4), np.diag(a_D))
    b = Moments(90, np.ones(4), np.diag(b_D))
    expected = 4.0 + ((np.sqrt(a_D) - np.sqrt(b_D)) ** 2).sum()
    assert expected == 4 + 1 + 0 + 16 + 9
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-14)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("dim", [2, 6, 40])
def test_equals_the_square_root_of_the_product(dim):
    a, b = moments_of(draw(2, 400, dim)), moments_of(draw(3, 500, dim, scale=1.5, shift=0.1))
    expected = by_sqrtm(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def exactly(a, b):
    """The distance in 50 digits, from singular values of Cholesky factors."""
    with mpmath.workdps(50):
        a_DD, b_DD = mpmath.matrix(a.cov_DD.tolist()), mpmath.matrix(b.cov_DD.tolist())
        cross_DD = mpmath.cholesky(a_DD).T * mpmath.cholesky(b_DD)
        nuclear = sum(mpmath.svd_r(cross_DD, compute_uv=False))
        means = sum(
            (mpmath.mpf(x) - mpmath.mpf(y)) ** 2 for x, y in zip(a.mean_D, b.mean_D, strict=True)
        )
        traces = sum(a_DD[i, i] + b_DD[i, i] for i in range(a.dim))
        return float(means + traces - 2 * nuclear)


@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_equals_fifty_digits_also_for_spectra_over_ten_decades(smallest, shift):
    rng = np.random.default_rng(0)
    spread_D = np.geomspace(1.0, smallest, 12)
    rotation_DD = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    a_ND, b_ND = (rng.normal(size=(100, 12)) * spread_D @ rotation_DD for _ in range(2))
    a, b = moments_of(a_ND), moments_of(b_ND + shift)
    assert frechet_distance(a, b) == pytest.approx(exactly(a, b), rel=1e-9)
    assert frechet_fit(a, b).value == pytest.approx(exactly(a, b), rel=1e-9)


def test_nearly_equal_sets_are_told_apart_to_rounding_of_the_traces():
    features_ND = draw(15)
    a, b = moments_of(features_ND), moments_of(features_ND * (1 + 1e-6))
    # The maps commute: sum of (sqrt(l) - sqrt(l (1 + 1e-6)^2))^2 = 1e-12 tr A, and the mean.
    expected = 1e-12 * (np.trace(a.cov_DD) + a.mean_D @ a.mean_D)
    assert frechet_distance(a, b) == pytest.approx(expected, abs=3e-15 * np.trace(a.cov_DD))


def test_a_root_of_full_rank_that_is_not_triangular_is_used_whole():
    # 9 samples in 10 dimensions cannot be, but whoever stores moments may say so.
    a, b = moments_of(draw(16, 300, 10)), moments_of(draw(17, 300, 10))
    few_a, few_b = (Moments(9, m.mean_D, m.cov_DD) for m in (a, b))
    expected = frechet_distance(a, b)
    assert frechet_distance(few_a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, few_b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(few_a, few_b) == pytest.approx(expected, rel=1e-9)


def test_order_of_samples_and_rotation_of_features_do_not_matter():
    a_ND, b_ND = draw(4), draw(5, scale=2.0)
    distance = frechet_distance(moments_of(a_ND), moments_of(b_ND))
    rng = np.random.default_rng(0)
    rotation_DD = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    shuffled = frechet_distance(moments_of(rng.permutation(a_ND)), moments_of(b_ND))
    rotated = frechet_distance(moments_of(a_ND @ rotation_DD), moments_of(b_ND @ rotation_DD))
    assert shuffled == pytest.approx(distance, rel=1e-11)
    assert rotated == pytest.approx(distance, rel=1e-11)


def test_singular_covariances_need_no_added_diagonal():
    # Points on two different lines: variances 2 and 8 on axes that share nothing.
    a = moments_of(np.array([[-1.0, 0, 0], [1.0, 0, 0]]))
    b = moments_of(np.array([[0, -2.0, 0], [0, 2.0, 0]]))
    assert frechet_distance(a, b) == pytest.approx(2.0 + 8.0, rel=1e-14)
    constant = moments_of(np.full((3, 3), 7.0))
    assert frechet_distance(constant, constant) == 0.0
    assert frechet_distance(a, constant) == pytest.approx(2.0 + 3 * 49.0, rel=1e-14)


def test_a_constant_feature_adds_only_its_own_distance():
    a_ND, b_ND = draw(18), draw(19)
    without = frechet_distance(moments_of(a_ND), moments_of(b_ND))
    for a_value, b_value in ((2.0, 2.0), (2.0, 5.0)):
        a = moments_of(np.insert(a_ND, 3, a_value, axis=1))
        b = moments_of(np.insert(b_ND, 3, b_value, axis=1))
        expected = without + (a_value - b_value) ** 2
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)
        assert frechet_fit(a, b).value == pytest.approx(expected, rel=1e-11)


def test_covariances_rounded_to_float32_are_not_refused():
    # Rank 30 of 80: rounding makes eigenvalues of about -1e-7.
    exact = moments_of(draw(20, 31, 80))
    stored = Moments(exact.count, exact.mean_D, exact.cov_DD.astype(np.float32).astype(np.float64))
    assert np.linalg.eigvalsh(stored.cov_DD)[0] < -1e-9
    other = moments_of(draw(21, 200, 80))
    expected = frechet_distance(exact, other)
    assert frechet_distance(stored, other) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(other, stored) == pytest.approx(expected, rel=1e-3)


def test_moments_that_cannot_be_compared_are_refused():
    good = moments_of(draw(0, dim=2))
    with pytest.raises(DataError, match="different dimensions: 2 and 3"):
        frechet_distance(good, moments_of(draw(0, dim=3)))
    bad_mean = Moments(9, np.array([0.0, np.nan]), np.eye(2))
    with pytest.raises(DataError, match="NaN or infinite"):
        frechet_distance(good, bad_mean)
    bad_cov = Moments(9, np.zeros(2), np.array([[1.0, 0.0], [0.0, np.inf]]))
    with pytest.raises(DataError, match="NaN or infinite"):
        frechet_distance(bad_cov, good)
    with pytest.raises(DataError, match="not symmetric"):
        frechet_distance(good, Moments(9, np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]])))


@pytest.mark.parametrize("count", [9, 9999])
def test_a_negative_eigenvalue_is_refused_whichever_side_is_decomposed(count):
    impossible = Moments(count, np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(DataError, match="negative eigenvalue"):
        frechet_distance(moments_of(draw(0, dim=2)), impossible)


def weighted_moments(features_ND, weights_N):
    """Moments as functions of weights that sum to 1, with divisor 1."""
    mean_D = weights_N @ features_ND
    centred_ND = features_ND - mean_D
    return Moments(len(features_ND), mean_D, (centred_ND * weights_N[:, None]).T @ centred_ND)


def flat_reference(kind):
    """A reference of full rank, with one constant feature, or with fewer images than features.

    Fewer images than samples, so that the distance is taken on its range, free of rounding that
    the difference quotient would magnify.
    """
    features_ND = draw(7, count=4 if kind == "few" else 50, shift=0.3)
    if kind == "constant":
        features_ND[:, 2] = 0.25
    return moments_of(features_ND)


@pytest.mark.parametrize("kind", ["full", "constant", "few"])
def test_influence_is_the_derivative_in_the_weight_of_a_sample(kind):
    features_ND = draw(6, count=60)
    reference = flat_reference(kind)
    even_N = np.full(60, 1 / 60)
    influence_N = frechet_influence(features_ND, weighted_moments(features_ND, even_N), reference)
    step = 1e-5
    for index in range(0, 60, 7):
        towards_N = np.eye(60)[index] - even_N
        ahead, behind = (
            frechet_distance(weighted_moments(features_ND, even_N + s * towards_N), reference)
            for s in (step, -step)
        )
        assert influence_N[index] == pytest.approx((ahead - behind) / (2 * step), rel=2e-5)


def test_influence_has_mean_zero_in_float64_also_for_float32_features():
    features_ND = draw(8).astype(np.float32)
    influence_N = frechet_influence(features_ND, moments_of(features_ND), moments_of(draw(9)))
    assert influence_N.dtype == np.float64
    assert influence_N.shape == (200,)
    assert abs(influence_N.mean()) < 1e-13 * len(influence_N) * np.abs(influence_N).max()


def test_influence_in_blocks_is_the_formula_on_all_rows(monkeypatch):
    monkeypatch.setattr("evalsuite.metrics.frechet._BLOCK_ROWS", 64)
    features_ND, reference = draw(8, shift=1.0), moments_of(draw(9))
    sample = moments_of(features_ND)
    root_DD = scipy.linalg.sqrtm(reference.cov_DD)
    inner_DD = scipy.linalg.sqrtm(root_DD @ sample.cov_DD @ root_DD)
    transport_DD = root_DD @ np.linalg.inv(inner_DD) @ root_DD
    d_ND = features_ND - sample.mean_D
    quadratic_N = np.einsum("nd,de,ne->n", d_ND, np.eye(6) - transport_DD, d_ND)
    linear_N = 2 * d_ND @ (sample.mean_D - reference.mean_D)
    np.testing.assert_allclose(
        frechet_fit(sample, reference).influence(features_ND),
        linear_N + quadratic_N - quadratic_N.mean(),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize(("count", "dim"), [(200, 6), (20, 50)])
def test_a_fit_has_the_value_of_the_distance_and_a_factor_serves_many_samples(count, dim):
    reference = moments_of(draw(10, 300, dim))
    factor = reference_factor(reference)
    for seed in (11, 12):
        sample = moments_of(draw(seed, count, dim, scale=1.2, shift=0.2))
        distance = frechet_distance(sample, reference)
        assert frechet_distance(sample, factor) == pytest.approx(distance, rel=1e-12)
        assert frechet_fit(sample, factor).value == pytest.approx(distance, rel=1e-10)


def test_the_map_carries_the_samples_onto_the_reference():
    sample, reference = moments_of(draw(13)), moments_of(draw(14, scale=2.0))
    transport_DD = np.eye(6) - frechet_fit(sample, reference).curvature_DD
    np.testing.assert_allclose(
        transport_DD @ sample.cov_DD @ transport_DD.T, reference.cov_DD, atol=1e-11
    )


def test_halves_are_fits_of_their_own_and_need_enough_samples():
    features_ND, reference = draw(22), reference_factor(moments_of(draw(23)))
    strata_N = np.arange(200) % 4
    fit = frechet_fit(moments_of(features_ND), reference)
    halved = halved_influence(features_ND, fit, reference, strata_N)
    np.testing.assert_array_equal(halved.influence_N, fit.influence(features_ND))
    half_N = halved.halves_N == 1
    assert np.bincount(strata_N[half_N]).tolist() == [25] * 4
    alone_N = frechet_influence(features_ND[half_N], moments_of(features_ND[half_N]), reference)
    np.testing.assert_array_equal(halved.in_halves_N[half_N], alone_N)
    assert halves_suffice(30, 6)
    assert not halves_suffice(29, 6)
    assert halves_suffice(200, 6, np.arange(200) % 50)
    assert not halves_suffice(200, 6, np.arange(200) % 51)


def test_influence_refuses_other_dimensions_and_bad_rows():
    moments = moments_of(draw(0))
    with pytest.raises(DataError, match="features have 5 dimensions, moments 6"):
        frechet_influence(draw(0, dim=5), moments, moments)
    with pytest.raises(DataError, match="features are float16"):
        frechet_influence(draw(0).astype(np.float16), moments, moments)
    features_ND = draw(0)
    features_ND[11, 0] = np.inf
    with pytest.raises(DataError, match="first is row 11"):
        frechet_influence(features_ND, moments, moments)


@pytest.mark.parametrize("count", [2, 3, 9, 29, 30, 31])
@pytest.mark.parametrize("reference_count", [20, 500])
def test_few_samples_have_the_distance_of_their_moments(count, reference_count):
    """Also against a reference that is singular itself, and far from the origin."""
    factor = reference_factor(moments_of(draw(1, reference_count, 30, shift=3.0)))
    features_ND = draw(2, count, 30, scale=1.3, shift=3.1).astype(np.float32)
    expected = frechet_distance(moments_of(features_ND), factor)
    assert frechet_distance_of_few(features_ND, factor) == pytest.approx(expected, rel=1e-10)


def test_few_samples_that_repeat_or_are_the_reference():
    features_ND = np.repeat(draw(3, 5, 30), 3, axis=0)
    moments = moments_of(features_ND)
    assert frechet_distance_of_few(features_ND, reference_factor(moments)) == pytest.approx(
        0, abs=1e-12 * np.trace(moments.cov_DD)
    )
    constant_ND = np.ones((4, 30))
    factor = reference_factor(moments_of(draw(1, 500, 30)))
    expected = frechet_distance(moments_of(constant_ND), factor)
    assert frechet_distance_of_few(constant_ND, factor) == pytest.approx(expected, rel=1e-12)


def test_few_samples_that_cannot_be():
    factor = reference_factor(moments_of(draw(1)))
    with pytest.raises(DataError, match="at least 2 samples"):
        frechet_distance_of_few(draw(0, 1), factor)
    with pytest.raises(DataError, match="different dimensions: 5 and 6"):
        frechet_distance_of_few(draw(0, 4, dim=5), factor)
    broken_ND = draw(0, 4)
    broken_ND[2, 3] = np.nan
    with pytest.raises(DataError, match="1 of 4 rows, the first is row 2"):
        frechet_distance_of_few(broken_ND, factor)


def test_the_moments_of_halves_are_theirs_and_merge_to_those_of_all():
    features_ND = draw(4, 401, shift=7.0)
    strata_N = np.arange(401) % 10
    found = moments_in_halves(features_ND, strata_N)
    for half, moments in enumerate(found.of_halves):
        alone = moments_of(features_ND[found.halves_N == half])
        assert moments.count == alone.count
        np.testing.assert_allclose(moments.cov_DD, alone.cov_DD, rtol=1e-12)
    whole = moments_of(features_ND)
    assert found.whole.count == 401
    np.testing.assert_allclose(found.whole.mean_D, whole.mean_D, rtol=1e-13)
    scale = np.abs(whole.cov_DD).max()
    np.testing.assert_allclose(found.whole.cov_DD, whole.cov_DD, atol=1e-13 * scale)
    assert sum(m.count for m in found.of_halves) == 401, "merging leaves the halves as they are"


def test_a_row_that_is_no_number_is_named_by_its_place_among_all():
    features_ND = draw(4, 40)
    features_ND[31, 2] = np.inf
    with pytest.raises(DataError, match="the first is row 31"):
        moments_in_halves(features_ND)
