"""Frechet distance and influence: truths, another route, numeric derivatives, singular cases."""

import warnings

import numpy as np
import pytest
import scipy.linalg

from evalsuite.errors import DataError
from evalsuite.metrics.frechet import frechet_distance, frechet_influence
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
    scale = np.linalg.eigvalsh(moments.cov_DD)[-1]
    assert 0 <= frechet_distance(moments, moments) < 1.5e-8 * dim * scale


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


def test_influence_has_mean_zero_in_float64_also_for_half_features():
    features_ND = draw(8).astype(np.float16)
    influence_N = frechet_influence(features_ND, moments_of(features_ND), moments_of(draw(9)))
    assert influence_N.dtype == np.float64
    assert influence_N.shape == (200,)
    assert abs(influence_N.mean()) < 1e-13 * len(influence_N) * np.abs(influence_N).max()


def test_influence_refuses_other_dimensions_and_bad_rows():
    moments = moments_of(draw(0))
    with pytest.raises(DataError, match="features have 5 dimensions, moments 6"):
        frechet_influence(draw(0, dim=5), moments, moments)
    features_ND = draw(0)
    features_ND[11, 0] = np.inf
    with pytest.raises(DataError, match="first is row 11"):
        frechet_influence(features_ND, moments, moments)
