"""Squared distances between two feature sets, tile by tile, in one stated arithmetic.

Legend: N and M points, D feature dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.moments import check_finite_rows

ARITHMETIC = "float32"
"""Name of the arithmetic of `squared_distances`, for protocols."""


@dataclass(frozen=True, eq=False)
class Points:
    """Features and their squared norms, both in the arithmetic of the distances."""

    features_ND: NDArray[np.float32]
    norms_N: NDArray[np.float32]

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.norms_N)

    def __getitem__(self, rows: slice) -> "Points":
        """Some of the points, as views."""
        return Points(self.features_ND[rows], self.norms_N[rows])


def points_of(features_ND: NDArray[Any], what: str) -> Points:
    """Points in float32.

    Raises:
        DataError: features with NaN or infinities, or so large that a square leaves float32.
        ValueError: not a matrix of floats.
    """
    check_finite_rows(features_ND, what)
    with np.errstate(over="ignore"):
        single_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
        norms_N = np.einsum("nd,nd->n", single_ND, single_ND)
    if not (norms_N < np.finfo(np.float32).max / 4).all():
        raise DataError(f"{what} are too large: their squared distances leave float32")
    return Points(single_ND, norms_N)


def squared_distances(u: Points, v: Points) -> NDArray[np.float32]:
    """max((|u|^2 - 2 u.v) + |v|^2, 0) in float32.

    Source: guided-diffusion `evaluations/evaluator.py`, the form it falls back to. ADM itself first
    tries float16, whose ties move precision and recall by about 0.01; that is another arithmetic
    and would be another function with another name beside this one. float32 gave the same shares
    as float64 on every measured set (`docs/metrics.md`), at half the cost. The last bit may
    depend on the tile, so exact ties of arithmetic that is not exact are decided by rounding.

    Returns:
        float32 [len(u), len(v)].
    """
    distances_NM: NDArray[np.float32] = u.features_ND @ v.features_ND.T
    distances_NM *= np.float32(-2)
    distances_NM += u.norms_N[:, None]
    distances_NM += v.norms_N
    np.maximum(distances_NM, np.float32(0), out=distances_NM)
    return distances_NM


def tiles(count: int, tile: int) -> Iterator[slice]:
    """Slices of at most `tile` that cover range(count)."""
    return (slice(start, min(start + tile, count)) for start in range(0, count, tile))
