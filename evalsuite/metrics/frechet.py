"""Frechet distance of two Gaussians, and what each sample contributes to it.

Legend: N samples, D feature dimensions, R rank of a covariance.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.covariances import (
    congruence,
    cross_product,
    gram,
    lower_half,
    quadratic_forms,
    refuse_negative,
    root_of_covariance,
    zero_below,
)
from evalsuite.metrics.frechet_spectrum import (
    FloatMatrix,
    check_moments,
    check_product,
    distance_apart,
    distance_of,
)
from evalsuite.metrics.intervals import HalvedInfluence, balanced_groups, degrees_of_freedom
from evalsuite.metrics.moments import Moments, MomentsAccumulator, check_finite_rows

HALVES_SAMPLES_PER_DIM = 5
HALVES_SAMPLES_PER_CLASS = 4

_BLOCK_ROWS = 4096


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
class HalvedMoments:
    """Moments of two halves with equal classes, and of all, which are the two merged.

    Attributes:
        whole: of all samples.
        of_halves: of the halves.
        halves_N: 0 or 1, the half of each sample; see `intervals.balanced_groups`.
    """

    whole: Moments
    of_halves: tuple[Moments, Moments]
    halves_N: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FrechetDerivative:
    """The derivative of a Frechet distance in the sample.

    Attributes:
        mean_D: mean of the samples.
        slope_D: 2 (m - mr).
        curvature_DD: I - T, T the matrix of the optimal map from the samples to the reference.
    """

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


@dataclass(frozen=True, eq=False)
class FrechetFit(FrechetDerivative):
    """A Frechet distance with its derivative in the sample.

    Attributes:
        value: the distance, as `frechet_distance` gives it.
    """

    value: float


def reference_factor(reference: Moments) -> ReferenceFactor:
    """Factorise a reference once.

    Raises:
        DataError: moments that are not finite, not symmetric or not those of any distribution.
    """
    check_moments(reference)
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
        return distance_of(sample, factor.moments, eigenvalues_R, lambda: cross_QR)
    eigenvalues_R = np.linalg.eigvalsh(congruence(factor.root_DR, sample.cov_DD))
    check_product(eigenvalues_R, sample, factor.moments)
    return distance_of(sample, factor.moments, eigenvalues_R, lambda: _cross(sample, factor))


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
    found, values_R = _derivative(sample, factor)
    if sample.count - 1 < factor.root_DR.shape[1]:
        value = frechet_distance(sample, factor)
    else:
        value = distance_of(sample, factor.moments, values_R, lambda: _cross(sample, factor))
    return FrechetFit(found.mean_D, found.slope_D, found.curvature_DD, value)


def frechet_influence(
    features_ND: NDArray[Any], sample: Moments, reference: Moments | ReferenceFactor
) -> NDArray[np.float64]:
    """`FrechetFit.influence` where the value is not wanted, which is then not computed.

    Raises:
        DataError: as `frechet_fit` and `FrechetFit.influence`.
    """
    found, _ = _derivative(sample, _factor(sample, reference))
    return found.influence(features_ND)


def moments_in_halves(
    features_ND: NDArray[Any], strata_N: NDArray[Any] | None = None
) -> HalvedMoments:
    """Moments of all samples and of two halves with equal classes, from one pass.

    Args:
        features_ND: float32 or float64 [N, D].
        strata_N: integer class of each sample when classes are balanced.

    Raises:
        DataError: as `moments_of`, or fewer than 4 samples.
    """
    check_finite_rows(features_ND, "features")
    halves_N = balanced_groups(len(features_ND), 2, strata_N)
    accumulators = (MomentsAccumulator(), MomentsAccumulator())
    for half, accumulator in enumerate(accumulators):
        accumulator.update(features_ND[halves_N == half])
    first, second = (accumulator.result() for accumulator in accumulators)
    accumulators[0].merge(accumulators[1])
    return HalvedMoments(accumulators[0].result(), (first, second), halves_N)


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
    halved: HalvedMoments | None = None,
) -> HalvedInfluence:
    """Influence values of a fit, and those of fits to two halves with equal classes.

    What `intervals.standard_error_from_halves` needs, where `halves_suffice`. It costs two more
    fits.

    Args:
        features_ND: float32 or float64 [N, D], the samples behind the fit.
        fit: of all samples.
        reference: that of the fit.
        strata_N: integer class of each sample when classes are balanced.
        halved: `moments_in_halves` of these samples, where that is known.

    Raises:
        DataError: as `FrechetFit.influence`, or fewer than 4 samples.
    """
    found = halved or moments_in_halves(features_ND, strata_N)
    in_halves_N = np.empty(len(features_ND))
    for half, moments in enumerate(found.of_halves):
        rows_N = found.halves_N == half
        in_halves_N[rows_N] = frechet_influence(features_ND[rows_N], moments, reference)
    return HalvedInfluence(fit.influence(features_ND), in_halves_N, found.halves_N)


def frechet_distance_of_few(features_ND: NDArray[Any], reference: ReferenceFactor) -> float:
    """`frechet_distance` of samples that are at most as many as their dimensions, from themselves.

    The centred samples are a root of their covariance: no matrix [D, D] of theirs is made or
    factorised, and the eigenvalue problem has N - 1 rows. A reflection takes the mean to one row,
    which is dropped, so that no eigenvalue is 0 by construction.

    Args:
        features_ND: float32 or float64 [N, D], 2 <= N.
        reference: factorised once.

    Raises:
        DataError: as `moments_of`, or dimensions that differ.
    """
    check_finite_rows(features_ND, "features")
    count, dim = features_ND.shape
    if count < 2:
        raise DataError(f"a covariance needs at least 2 samples, there are {count}")
    if dim != reference.moments.dim:
        raise DataError(f"moments have different dimensions: {dim} and {reference.moments.dim}")
    rows_ND = features_ND.astype(np.float64, order="C")
    mean_D = rows_ND.mean(axis=0)
    rows_ND -= mean_D
    mirror_N = np.full(count, -1.0 / np.sqrt(count))
    mirror_N[0] += 1.0
    mirror_N /= np.linalg.norm(mirror_N)
    rows_ND -= np.outer(2.0 * mirror_N, mirror_N @ rows_ND)
    root_DR = rows_ND[1:].T / np.sqrt(count - 1)
    cross_QR = cross_product(root_DR, reference.root_DR)
    eigenvalues_R = np.linalg.eigvalsh(gram(cross_QR)) if cross_QR.size else np.zeros(0)
    apart_D = mean_D - reference.moments.mean_D
    trace = float(np.vdot(root_DR, root_DR)) + float(np.trace(reference.moments.cov_DD))
    apart = float(apart_D @ apart_D) + trace
    return distance_apart(apart, eigenvalues_R, lambda: cross_QR)


def _derivative(
    sample: Moments, factor: ReferenceFactor
) -> tuple[FrechetDerivative, NDArray[np.float64]]:
    """The derivative, and the eigenvalues [R] that the distance is made of."""
    values_R, vectors_RR = np.linalg.eigh(congruence(factor.root_DR, sample.cov_DD))
    check_product(values_R, sample, factor.moments)
    kept_R = values_R > zero_below(values_R, sample.dim)
    half_DR = factor.root_DR @ (vectors_RR[:, kept_R] * values_R[kept_R] ** -0.25)
    curvature_DD = -(half_DR @ half_DR.T)
    curvature_DD[np.diag_indices(sample.dim)] += 1.0
    slope_D = 2.0 * (sample.mean_D - factor.moments.mean_D)
    return FrechetDerivative(sample.mean_D, slope_D, curvature_DD), values_R


def _distance_of_few(few: Moments, reference: Moments) -> float:
    """The distance where the samples span less than the reference, which is not factorised."""
    for moments in (few, reference):
        check_moments(moments)
    if few.dim != reference.dim:
        raise DataError(f"moments have different dimensions: {few.dim} and {reference.dim}")
    smallest = float(np.diag(reference.cov_DD).min(initial=0.0))
    refuse_negative(np.array([smallest]), float(np.linalg.norm(reference.cov_DD)))
    narrow_DR = root_of_covariance(few.cov_DD, few.count)
    eigenvalues_R = np.linalg.eigvalsh(congruence(narrow_DR, reference.cov_DD))
    check_product(eigenvalues_R, few, reference)
    return distance_of(
        few, reference, eigenvalues_R, lambda: _cross(few, reference_factor(reference))
    )


def _factor(sample: Moments, reference: Moments | ReferenceFactor) -> ReferenceFactor:
    check_moments(sample)
    given = reference if isinstance(reference, Moments) else reference.moments
    if sample.dim != given.dim:
        raise DataError(f"moments have different dimensions: {sample.dim} and {given.dim}")
    return reference_factor(reference) if isinstance(reference, Moments) else reference


def _cross(sample: Moments, factor: ReferenceFactor) -> FloatMatrix:
    return cross_product(root_of_covariance(sample.cov_DD, sample.count), factor.root_DR)
