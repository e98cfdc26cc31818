"""Frechet distance of two Gaussians, and what each sample contributes to it.

Legend: N samples, D feature dimensions, R rank of a covariance.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.moments import Moments, check_finite_rows

NEGATIVE_TOLERANCE = 1e-5
"""Share of the norm by which an eigenvalue may be negative: float32 files stay below 1e-6."""

_BLOCK_ROWS = 4096


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared 2-Wasserstein distance of two Gaussians with these moments.

    |m_a - m_b|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2, where the last trace is the sum of the
    roots of symmetric eigenvalues, clipped at 0. A matrix square root of the product (sqrtm) is
    never taken. Singular covariances need no special care and no added diagonal: the root is taken
    on the range of the covariance with fewer samples.

    Source: Dowson and Landau 1982; Heusel et al. 2017, eq. 6.

    Symmetric in its arguments up to rounding. The distance cannot be negative, so a result below 0
    is rounding and comes back as 0. An eigenvalue near 0 is known to eps times the largest product
    of eigenvalues, its root to the square root of that, so the rounding floor is at most about
    D * sqrt(eps * max eig A * max eig B), 1.5e-8 * D for unit covariances. Measured, a set with
    itself gives 1e-11 at D = 1024, and 3e-6 when eigenvalues span ten decades.

    Returns:
        The distance, in squared feature units, at least 0.

    Raises:
        DataError: dimensions differ, or moments are not finite, not symmetric or not those of any
            distribution (negative eigenvalues).
    """
    _check(a, b)
    narrow, wide = (a, b) if a.count <= b.count else (b, a)
    root_DR, largest = _root_on_range(narrow.cov_DD)
    product_RR = root_DR.T @ wide.cov_DD @ root_DR
    eigenvalues_R = np.linalg.eigvalsh((product_RR + product_RR.T) / 2)
    _refuse_negative(eigenvalues_R, largest * float(np.linalg.norm(wide.cov_DD)))
    trace_of_root = float(np.sqrt(np.clip(eigenvalues_R, 0.0, None)).sum())
    difference_D = a.mean_D - b.mean_D
    traces = float(np.trace(a.cov_DD)) + float(np.trace(b.cov_DD))
    return max(0.0, float(difference_D @ difference_D) + traces - 2.0 * trace_of_root)


def frechet_influence(
    features_ND: NDArray[Any], sample: Moments, reference: Moments
) -> NDArray[np.float64]:
    """First-order change of the distance per unit of extra weight on each sample.

    With d = x - m and T = Sr^1/2 (Sr^1/2 S Sr^1/2)^-1/2 Sr^1/2, the optimal map's matrix:
    2 (m - mr)'d + d'(I - T)d, less the mean over samples of d'(I - T)d.

    Source: the derivative of `frechet_distance` in the moments.
    Both roots are pseudo-inverses: an eigenvalue of Sr, or of the product on the range of Sr, that
    is at most D * 2.2e-16 of the largest counts as 0. That is exact where the samples vary in
    every direction in which the reference does; where they do not (N <= D) the distance has no
    derivative, and the values are not to be used.

    Args:
        features_ND: any float dtype [N, D], the samples behind `sample`.
        sample: their moments.
        reference: moments of the reference, of any rank.

    Returns:
        float64 [N], mean 0 up to rounding; `intervals.standard_error` makes it an error.

    Raises:
        DataError: as `frechet_distance`; or features with NaN, infinities or another dimension.
    """
    check_finite_rows(features_ND, "features")
    _check(sample, reference)
    if features_ND.shape[1] != sample.dim:
        raise DataError(f"features have {features_ND.shape[1]} dimensions, moments {sample.dim}")
    quadratic_DD = np.eye(sample.dim) - _transport(sample.cov_DD, reference.cov_DD)
    slope_D = 2.0 * (sample.mean_D - reference.mean_D)
    linear_N = np.empty(len(features_ND))
    square_N = np.empty(len(features_ND))
    for start in range(0, len(features_ND), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        d_ND = features_ND[rows].astype(np.float64) - sample.mean_D
        linear_N[rows] = d_ND @ slope_D
        square_N[rows] = np.einsum("nd,nd->n", d_ND @ quadratic_DD, d_ND)
    linear_N += square_N - square_N.mean()
    return linear_N


def _transport(cov_DD: NDArray[np.float64], target_DD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix of the optimal linear map from N(0, cov) to N(0, target), on the target's range."""
    root_DR, largest = _root_on_range(target_DD)
    product_RR = root_DR.T @ cov_DD @ root_DR
    values_R, vectors_RR = np.linalg.eigh((product_RR + product_RR.T) / 2)
    _refuse_negative(values_R, largest * float(np.linalg.norm(cov_DD)))
    kept_R = values_R > _zero_below(values_R, len(cov_DD))
    half_DR = root_DR @ (vectors_RR[:, kept_R] * values_R[kept_R] ** -0.25)
    transport_DD: NDArray[np.float64] = half_DR @ half_DR.T
    return transport_DD


def _root_on_range(cov_DD: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """L [D, R] with L L' = cov, for the R eigenvalues that are not rounding, and the largest."""
    values_D, vectors_DD = np.linalg.eigh(cov_DD)
    largest = float(np.abs(values_D).max(initial=0.0))
    _refuse_negative(values_D, largest)
    kept_D = values_D > _zero_below(values_D, len(cov_DD))
    return vectors_DD[:, kept_D] * np.sqrt(values_D[kept_D]), largest


def _zero_below(eigenvalues: NDArray[np.float64], dim: int) -> float:
    return dim * float(np.finfo(np.float64).eps) * float(eigenvalues.max(initial=0.0))


def _refuse_negative(eigenvalues: NDArray[np.floating[Any]], norm: float) -> None:
    smallest = float(eigenvalues.min(initial=0.0))
    if smallest < -NEGATIVE_TOLERANCE * norm:
        raise DataError(f"a covariance has a negative eigenvalue ({smallest:.3g}, norm {norm:.3g})")


def _check(a: Moments, b: Moments) -> None:
    if a.dim != b.dim:
        raise DataError(f"moments have different dimensions: {a.dim} and {b.dim}")
    for moments in (a, b):
        if moments.cov_DD.shape != (moments.dim, moments.dim):
            raise DataError(f"mean has {moments.dim} dimensions, cov is {moments.cov_DD.shape}")
        if not (np.isfinite(moments.mean_D).all() and np.isfinite(moments.cov_DD).all()):
            raise DataError("moments have NaN or infinite values")
        skew = float(np.abs(moments.cov_DD - moments.cov_DD.T).max(initial=0.0))
        if skew > NEGATIVE_TOLERANCE * float(np.abs(moments.cov_DD).max(initial=0.0)):
            raise DataError("a covariance is not symmetric")
