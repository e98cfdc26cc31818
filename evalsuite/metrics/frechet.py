"""Frechet distance of two Gaussians, and what each sample contributes to it.

Legend: N samples, D feature dimensions, R rank of a covariance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.covariances import (
    EPS,
    congruence,
    cross_product,
    gram,
    lower_half,
    quadratic_forms,
    refuse_negative,
    root_of_covariance,
    zero_below,
)
from evalsuite.metrics.intervals import HalvedInfluence, balanced_groups, degrees_of_freedom
from evalsuite.metrics.moments import Moments, check_finite_rows, moments_of

HALVES_SAMPLES_PER_DIM = 5
HALVES_SAMPLES_PER_CLASS = 4

ASYMMETRY_TOLERANCE = 1e-5
"""Share of the largest entry by which a covariance may differ from its transpose."""

_ROUNDING = 1e-10
"""Share of the distance that rounding of eigenvalues may cost before singular values are taken."""

_BLOCK_ROWS = 4096

FloatMatrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReferenceFactor:
    """A reference whose covariance is factorised once, for any number of sample sets.

    Attributes:
        moments: the reference.
        root_DR: float64 [D, R], root @ root.T is its covariance.
    """

    moments: Moments
    root_DR: FloatMatrix


@dataclass(frozen=True, eq=False)
class FrechetFit:
    """A Frechet distance with its derivative in the sample.

    Attributes:
        value: the distance, as `frechet_distance` gives it.
        mean_D: mean of the samples.
        slope_D: 2 (m - mr).
        curvature_DD: I - T, T the matrix of the optimal map from the samples to the reference.
    """

    value: float
    mean_D: NDArray[np.float64]
    slope_D: NDArray[np.float64]
    curvature_DD: FloatMatrix

    def influence(self, features_ND: NDArray[Any]) -> NDArray[np.float64]:
        """First-order change of the distance per unit of extra weight on each sample.

        With d = x - m: 2 (m - mr)'d + d'(I - T)d, less the mean over these samples of d'(I - T)d.

        Args:
            features_ND: float32 or float64 [N, D], the samples behind the fit.

        Returns:
            float64 [N], mean 0 up to rounding; `intervals.standard_error` makes it an error.

        Raises:
            DataError: features with NaN, infinities, another dimension, or in float16.
        """
        check_finite_rows(features_ND, "features")
        dim = len(self.mean_D)
        if features_ND.shape[1] != dim:
            raise DataError(f"features have {features_ND.shape[1]} dimensions, moments {dim}")
        half_DD = lower_half(self.curvature_DD)
        linear_N = np.empty(len(features_ND))
        square_N = np.empty(len(features_ND))
        for start in range(0, len(features_ND), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            d_ND = features_ND[rows].astype(np.float64, order="C") - self.mean_D
            linear_N[rows] = d_ND @ self.slope_D
            square_N[rows] = quadratic_forms(d_ND, half_DD)
        linear_N += square_N - square_N.mean()
        return linear_N


def reference_factor(reference: Moments) -> ReferenceFactor:
    """Factorise a reference once.

    Raises:
        DataError: moments that are not finite, not symmetric or not those of any distribution.
    """
    _check(reference)
    return ReferenceFactor(reference, root_of_covariance(reference.cov_DD, reference.count))


def frechet_distance(sample: Moments, reference: Moments | ReferenceFactor) -> float:
    """Squared 2-Wasserstein distance of two Gaussians with these moments.

    |m_a - m_b|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2. The last trace is that of the singular
    values of La' Lb, where La La' = A and Lb Lb' = B (the nuclear norm). It is taken from the roots
    of the eigenvalues of La' B La, clipped at 0, where the rounding of eigenvalues costs less than
    1e-10 of the distance, and from the singular values themselves where it would cost more: for
    nearly equal sets and for spectra over many decades. A matrix square root of the product
    (sqrtm) is never taken. Singular covariances need no added diagonal: they are rooted on their
    range, and the side that has fewer samples than dimensions makes the problem smaller.

    Source: Dowson and Landau 1982; Heusel et al. 2017, eq. 6.

    Symmetric in its arguments up to rounding. The distance cannot be negative, so a result below 0
    is rounding and comes back as 0.

    Returns:
        The distance, in squared feature units, at least 0.

    Raises:
        DataError: dimensions differ, or moments are not finite, not symmetric or not those of any
            distribution (negative eigenvalues).
    """
    if isinstance(reference, Moments) and sample.count < min(reference.count, sample.dim):
        return _distance_of_few(sample, reference)
    factor = _factor(sample, reference)
    if sample.count - 1 < factor.root_DR.shape[1]:
        cross_QR = _cross(sample, factor)
        eigenvalues_R = np.linalg.eigvalsh(gram(cross_QR)) if cross_QR.size else np.zeros(0)
        return _distance(sample, factor.moments, eigenvalues_R, lambda: cross_QR)
    eigenvalues_R = np.linalg.eigvalsh(congruence(factor.root_DR, sample.cov_DD))
    _check_product(eigenvalues_R, sample, factor.moments)
    return _distance(sample, factor.moments, eigenvalues_R, lambda: _cross(sample, factor))


def frechet_fit(sample: Moments, reference: Moments | ReferenceFactor) -> FrechetFit:
    """The distance and its derivative, from one decomposition.

    With T = Sr^1/2 (Sr^1/2 S Sr^1/2)^-1/2 Sr^1/2, the optimal map's matrix. Roots are
    pseudo-inverses: an eigenvalue of the product on the range of Sr that is at most D * 2.2e-16 of
    the largest counts as 0. That is exact where the samples vary in every direction in which the
    reference does; where they do not (N <= D) the distance has no derivative, and `influence` is
    not to be used.

    Source: the derivative of `frechet_distance` in the moments.

    Raises:
        DataError: as `frechet_distance`.
    """
    factor = _factor(sample, reference)
    values_R, vectors_RR = np.linalg.eigh(congruence(factor.root_DR, sample.cov_DD))
    _check_product(values_R, sample, factor.moments)
    kept_R = values_R > zero_below(values_R, sample.dim)
    half_DR = factor.root_DR @ (vectors_RR[:, kept_R] * values_R[kept_R] ** -0.25)
    if sample.count - 1 < factor.root_DR.shape[1]:
        value = frechet_distance(sample, factor)
    else:
        value = _distance(sample, factor.moments, values_R, lambda: _cross(sample, factor))
    curvature_DD = -(half_DR @ half_DR.T)
    curvature_DD[np.diag_indices(sample.dim)] += 1.0
    slope_D = 2.0 * (sample.mean_D - factor.moments.mean_D)
    return FrechetFit(value, sample.mean_D, slope_D, curvature_DD)


def frechet_influence(
    features_ND: NDArray[Any], sample: Moments, reference: Moments | ReferenceFactor
) -> NDArray[np.float64]:
    """`FrechetFit.influence` where the value is not wanted; arguments and errors are the same."""
    return frechet_fit(sample, reference).influence(features_ND)


def halves_suffice(num_samples: int, dim: int, strata_N: NDArray[Any] | None = None) -> bool:
    """Whether halves are large enough for an error: as small as the simulation has shown to serve.

    At least 5 samples for each dimension, and with strata on average 4 for each class.
    """
    classes = num_samples - degrees_of_freedom(num_samples, strata_N)
    enough = max(HALVES_SAMPLES_PER_DIM * dim, HALVES_SAMPLES_PER_CLASS * classes)
    return num_samples >= enough


def halved_influence(
    features_ND: NDArray[Any],
    fit: FrechetFit,
    reference: Moments | ReferenceFactor,
    strata_N: NDArray[Any] | None = None,
) -> HalvedInfluence:
    """Influence values of a fit, and those of fits to two halves with equal classes.

    What `intervals.standard_error_from_halves` needs, where `halves_suffice`. It costs two more
    fits.

    Args:
        features_ND: float32 or float64 [N, D], the samples behind the fit.
        fit: of all samples.
        reference: that of the fit.
        strata_N: integer class of each sample when classes are balanced.

    Raises:
        DataError: as `FrechetFit.influence`, or fewer than 4 samples.
    """
    halves_N = balanced_groups(len(features_ND), 2, strata_N)
    in_halves_N = np.empty(len(features_ND))
    for half in (0, 1):
        rows_N = halves_N == half
        half_ND = features_ND[rows_N]
        in_halves_N[rows_N] = frechet_influence(half_ND, moments_of(half_ND), reference)
    return HalvedInfluence(fit.influence(features_ND), in_halves_N, halves_N)


def _distance_of_few(few: Moments, reference: Moments) -> float:
    """The distance where the samples span less than the reference, which is not factorised."""
    for moments in (few, reference):
        _check(moments)
    if few.dim != reference.dim:
        raise DataError(f"moments have different dimensions: {few.dim} and {reference.dim}")
    smallest = float(np.diag(reference.cov_DD).min(initial=0.0))
    refuse_negative(np.array([smallest]), float(np.linalg.norm(reference.cov_DD)))
    narrow_DR = root_of_covariance(few.cov_DD, few.count)
    eigenvalues_R = np.linalg.eigvalsh(congruence(narrow_DR, reference.cov_DD))
    _check_product(eigenvalues_R, few, reference)
    return _distance(
        few, reference, eigenvalues_R, lambda: _cross(few, reference_factor(reference))
    )


def _factor(sample: Moments, reference: Moments | ReferenceFactor) -> ReferenceFactor:
    _check(sample)
    given = reference if isinstance(reference, Moments) else reference.moments
    if sample.dim != given.dim:
        raise DataError(f"moments have different dimensions: {sample.dim} and {given.dim}")
    return reference_factor(reference) if isinstance(reference, Moments) else reference


def _distance(
    a: Moments,
    b: Moments,
    eigenvalues_R: NDArray[np.floating[Any]],
    cross: Callable[[], FloatMatrix],
) -> float:
    """The distance from the squared singular values of `cross`, or from `cross` if it must be."""
    difference_D = a.mean_D - b.mean_D
    apart = float(difference_D @ difference_D) + float(np.trace(a.cov_DD) + np.trace(b.cov_DD))
    roots_R = np.sqrt(np.clip(eigenvalues_R, 0.0, None))
    distance = apart - 2.0 * float(roots_R.sum())
    if 2.0 * _rounding_of_roots(roots_R) > _ROUNDING * distance:
        distance = apart - 2.0 * float(np.linalg.svd(cross(), compute_uv=False).sum())
    return max(0.0, distance)


def _rounding_of_roots(roots_R: NDArray[np.floating[Any]]) -> float:
    """Error of the sum of roots whose squares are each known to a few eps of the largest.

    An eigenvalue's error e becomes e / (2 root), and sqrt(e) at most; errors have random signs.
    """
    error = 4.0 * EPS * float(roots_R.max(initial=0.0)) ** 2
    if error == 0.0:
        return 0.0
    errors_R = error / np.maximum(2.0 * roots_R, np.sqrt(error))
    return float(np.linalg.norm(errors_R))


def _cross(sample: Moments, factor: ReferenceFactor) -> FloatMatrix:
    return cross_product(root_of_covariance(sample.cov_DD, sample.count), factor.root_DR)


def _check_product(eigenvalues_R: NDArray[np.floating[Any]], a: Moments, b: Moments) -> None:
    refuse_negative(eigenvalues_R, float(np.linalg.norm(a.cov_DD) * np.linalg.norm(b.cov_DD)))


def _check(moments: Moments) -> None:
    if moments.cov_DD.shape != (moments.dim, moments.dim):
        raise DataError(f"mean has {moments.dim} dimensions, cov is {moments.cov_DD.shape}")
    if not (np.isfinite(moments.mean_D).all() and np.isfinite(moments.cov_DD).all()):
        raise DataError("moments have NaN or infinite values")
    skew = float(np.abs(moments.cov_DD - moments.cov_DD.T).max(initial=0.0))
    if skew > ASYMMETRY_TOLERANCE * float(np.abs(moments.cov_DD).max(initial=0.0)):
        raise DataError("a covariance is not symmetric")
