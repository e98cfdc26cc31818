"""Shares of classes: sums, who pushes, errors, refusals."""

import numpy as np
import pytest

from evalsuite.errors import DataError
from evalsuite.metrics.decomposition import ClassShare, decompose_by_class, top_classes
from evalsuite.metrics.frechet import frechet_distance, frechet_fit
from evalsuite.metrics.intervals import standard_error
from evalsuite.metrics.moments import Moments, moments_of


def case():
    """Ten classes of which class 7 is shifted and class 3 is rare."""
    rng = np.random.default_rng(0)
    labels_N = rng.permutation(np.repeat(np.arange(10), [50, 50, 50, 4, 50, 50, 50, 50, 50, 50]))
    features_ND = rng.normal(size=(len(labels_N), 6))
    features_ND[labels_N == 7] += 1.5
    return features_ND, labels_N, moments_of(rng.normal(size=(2000, 6)))


def test_contributions_sum_to_the_distance_and_influences_to_nothing():
    features_ND, labels_N, reference = case()
    fit = frechet_fit(moments_of(features_ND), reference)
    shares = decompose_by_class(fit.value, fit.influence(features_ND), labels_N)
    assert [share.label for share in shares] == list(range(10))
    assert sum(share.count for share in shares) == len(labels_N)
    assert sum(share.contribution for share in shares) == pytest.approx(fit.value, rel=1e-11)
    weighted = sum(share.count * share.influence for share in shares)
    assert weighted == pytest.approx(0, abs=1e-9)


def test_the_shifted_class_pushes_the_distance_up_and_leaving_it_out_shows_it():
    features_ND, labels_N, reference = case()
    fit = frechet_fit(moments_of(features_ND), reference)
    shares = decompose_by_class(fit.value, fit.influence(features_ND), labels_N)
    worst = top_classes(shares, 3)[0]
    assert worst.label == 7
    assert worst.influence > 5 * worst.standard_error
    without = frechet_distance(moments_of(features_ND[labels_N != 7]), reference)
    assert without < fit.value
    assert top_classes(shares, 10) == top_classes(shares, 10, lowest=True)[::-1]


def test_influence_is_the_slope_in_the_weight_of_the_class():
    features_ND, labels_N, reference = case()
    count = len(labels_N)

    def distance(weights_N):
        mean_D = weights_N @ features_ND
        d_ND = features_ND - mean_D
        return frechet_distance(Moments(count, mean_D, (d_ND * weights_N[:, None]).T @ d_ND), ref)

    ref = Moments(30, reference.mean_D, reference.cov_DD)
    even_N, step = np.full(count, 1 / count), 1e-4
    cov_DD = np.cov(features_ND, rowvar=False, ddof=0)
    fit = frechet_fit(Moments(count, features_ND.mean(axis=0), cov_DD), ref)
    shares = decompose_by_class(fit.value, fit.influence(features_ND), labels_N)
    for share in shares:
        of_class_N = (labels_N == share.label) / share.count
        ahead, behind = (distance(even_N + s * (of_class_N - even_N)) for s in (step, -step))
        assert share.influence == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-5)


def test_errors_are_those_of_a_mean_within_its_class():
    influence_N = np.array([1.0, 3.0, 8.0, -12.0])
    shares = decompose_by_class(2.0, influence_N, np.array([5, 5, 5, -1]))
    assert shares[0] == ClassShare(-1, 1, -12.0, None, 0.25 * (2.0 - 12.0))
    assert shares[1].influence == 4.0
    assert shares[1].standard_error == pytest.approx(standard_error(influence_N[:3]))


def test_what_cannot_be_shared_out_is_refused():
    labels_N = np.zeros(3, dtype=np.int64)
    with pytest.raises(DataError, match="NaN"):
        decompose_by_class(1.0, np.array([0.0, np.nan, 1.0]), labels_N)
    with pytest.raises(DataError, match="needs samples"):
        decompose_by_class(1.0, np.zeros(0), labels_N[:0])
    with pytest.raises(ValueError, match="do not fit"):
        decompose_by_class(1.0, np.zeros(4), labels_N)
    with pytest.raises(ValueError, match="must be integers"):
        decompose_by_class(1.0, np.zeros(3), np.zeros(3))
