"""The plane in which the reference varies most, and where samples lie in it.

Legend: N samples, M reference images, D feature dimensions, P points of a curve.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.metrics.moments import Moments

_INSIDE_95 = 5.991
"""95 % of a normal variable in a plane lie within this squared distance of its mean."""
_CURVE_POINTS = 97


class Plane(NamedTuple):
    """Two directions in feature space.

    Attributes:
        mean_D: of the reference; the origin of the plane.
        axes_D2: principal directions of the reference, unit length.
        explained: share of the reference's variance along each.
        cov_22: of the reference in the plane.
    """

    mean_D: NDArray[np.float64]
    axes_D2: NDArray[np.float64]
    explained: tuple[float, float]
    cov_22: NDArray[np.float64]

    def places(self, features_ND: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates of features in the plane [N, 2]."""
        found: NDArray[np.float64] = (features_ND.astype(np.float64) - self.mean_D) @ self.axes_D2
        return found


def plane_of(moments: Moments) -> Plane:
    """The plane of the two largest principal components of a reference.

    The sign of a direction is that in which its largest entry is positive.

    Source: Lehoucq, Sorensen and Yang 1998 (ARPACK), started from a fixed vector.

    Args:
        moments: of at least three dimensions.
    """
    from scipy.sparse.linalg import eigsh

    start_D = np.ones(len(moments.mean_D))
    values, vectors_D2 = eigsh(moments.cov_DD, k=2, v0=start_D)
    order = np.argsort(values)[::-1]
    values, vectors_D2 = values[order], vectors_D2[:, order]
    largest = np.abs(vectors_D2).argmax(axis=0)
    vectors_D2 = vectors_D2 * np.sign(vectors_D2[largest, [0, 1]])
    first, second = (float(value / np.trace(moments.cov_DD)) for value in values)
    return Plane(moments.mean_D, vectors_D2, (first, second), np.diag(values))


def ellipse(mean_2: NDArray[np.float64], cov_22: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The curve that holds 95 % of a normal distribution in the plane [P, 2], closed."""
    values, vectors = np.linalg.eigh(cov_22)
    angles = np.linspace(0, 2 * np.pi, _CURVE_POINTS)
    circle_2P = np.stack((np.cos(angles), np.sin(angles)))
    scaled_2P = np.sqrt(_INSIDE_95 * np.maximum(values, 0))[:, None] * circle_2P
    return [(float(x), float(y)) for x, y in (mean_2[:, None] + vectors @ scaled_2P).T]


def members(
    points_ND: NDArray[Any], centres_MD: NDArray[Any], num_neighbours: int
) -> NDArray[np.bool_]:
    """Whether each point is in the ball of a centre that reaches to its k-th other centre [N].

    Precision's rule for points among reference images, recall's for images among samples.

    Source: Kynkaanniemi et al. 2019, section 2.

    Args:
        points_ND: N points.
        centres_MD: more than `num_neighbours` centres.
        num_neighbours: k.
    """
    between_MM = _squares(centres_MD, centres_MD)
    radii_M = np.partition(between_MM, num_neighbours, axis=1)[:, num_neighbours]
    found: NDArray[np.bool_] = np.any(_squares(points_ND, centres_MD) <= radii_M, axis=1)
    return found


def _squares(a_ND: NDArray[Any], b_MD: NDArray[Any]) -> NDArray[np.float64]:
    """Squared distances [N, M] in float64."""
    a_ND, b_MD = a_ND.astype(np.float64), b_MD.astype(np.float64)
    norms_N1, norms_M = (a_ND**2).sum(axis=1)[:, None], (b_MD**2).sum(axis=1)
    squares_NM: NDArray[np.float64] = norms_N1 + norms_M - 2 * (a_ND @ b_MD.T)
    return np.maximum(squares_NM, 0)
