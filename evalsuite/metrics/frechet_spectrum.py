"""A Frechet distance from eigenvalues, and what moments and eigenvalues must be.

Legend: D feature dimensions, R rank of a covariance, Q another.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.covariances import EPS, refuse_negative
from evalsuite.metrics.moments import Moments

FloatMatrix = NDArray[np.float64]
ASYMMETRY_TOLERANCE = 1e-5
"""Share of the largest entry by which a covariance may differ from its transpose."""

_ROUNDING = 1e-10
"""Share of the distance that rounding of eigenvalues may cost before singular values are taken."""


def distance_of(
    a: Moments,
    b: Moments,
    eigenvalues_R: NDArray[np.floating[Any]],
    cross: Callable[[], FloatMatrix],
) -> float:
    """`distance_apart` of two Gaussians with these moments."""
    difference_D = a.mean_D - b.mean_D
    apart = float(difference_D @ difference_D) + float(np.trace(a.cov_DD) + np.trace(b.cov_DD))
    return distance_apart(apart, eigenvalues_R, cross)


def distance_apart(
    apart: float, eigenvalues_R: NDArray[np.floating[Any]], cross: Callable[[], FloatMatrix]
) -> float:
    """The distance from the squared singular values of `cross`, or from `cross` if it must be.

    `apart` is the distance of uncorrelated Gaussians: squared means' distance and both traces.
    """
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


def check_product(eigenvalues_R: NDArray[np.floating[Any]], a: Moments, b: Moments) -> None:
    """Raise DataError when eigenvalues of a product of covariances are negative."""
    refuse_negative(eigenvalues_R, float(np.linalg.norm(a.cov_DD) * np.linalg.norm(b.cov_DD)))


def check_moments(moments: Moments) -> None:
    """Raise DataError unless shapes fit, values are finite and the covariance is symmetric."""
    if moments.cov_DD.shape != (moments.dim, moments.dim):
        raise DataError(f"mean has {moments.dim} dimensions, cov is {moments.cov_DD.shape}")
    if not (np.isfinite(moments.mean_D).all() and np.isfinite(moments.cov_DD).all()):
        raise DataError("moments have NaN or infinite values")
    skew = float(np.abs(moments.cov_DD - moments.cov_DD.T).max(initial=0.0))
    if skew > ASYMMETRY_TOLERANCE * float(np.abs(moments.cov_DD).max(initial=0.0)):
        raise DataError("a covariance is not symmetric")
