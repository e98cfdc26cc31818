"""Squared distances between two feature sets, tile by tile, in one stated arithmetic.

Legend: N and M points, D feature dimensions, B blocks of 10,000 points.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.metrics import float16_sums
from evalsuite.metrics.moments import check_finite_rows

ADM_TILE = 10_000
"""Rows and columns of the tiles for which ADM chooses between float16 and float32."""
_SAFE_HALF_NORM = 15_000.0
"""Squared norms up to here leave no distance beyond float16, as 4 * 15,000 * 1.05 < 65,504."""


class Arithmetic(StrEnum):
    """How a squared distance (|u|^2 - 2 u.v) + |v|^2 is rounded.

    Attributes:
        FLOAT32: everything in float32. It gave the same shares as float64 on every measured set, at
            half the cost. The last bit may depend on the tile, so exact ties of features that are
            not exact are decided by rounding.
        ADM_FLOAT16: features, squares, each addition of the norms, the product (summed in float32,
            rounded once) and each later operation in float16, as TensorFlow does on a CPU. A tile
            of 10,000 x 10,000 points with an infinite distance is float32 as a whole. Its ties
            move precision and recall by about 0.01. Source: guided-diffusion
            `evaluations/evaluator.py` (`DistanceBlock`); order of additions: `float16_sums`.
    """

    FLOAT32 = "float32"
    ADM_FLOAT16 = "adm-float16"


@dataclass(frozen=True, eq=False)
class Points:
    """Features and what their distances need, on one device.

    Attributes:
        features_ND: float32 [N, D].
        norms_N: their squared norms, float32 [N].
        half_norms_N: the squared norms in float16 for `ADM_FLOAT16`, else None.
    """

    features_ND: Tensor
    norms_N: Tensor
    half_norms_N: Tensor | None

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.norms_N)

    def norms(self, dtype: torch.dtype) -> Tensor:
        """Squared norms in float32 or, for points of `ADM_FLOAT16`, float16 [N]."""
        if dtype == torch.float32:
            return self.norms_N
        assert self.half_norms_N is not None, "these points have no norms in float16"
        return self.half_norms_N


def points_of(
    features_ND: NDArray[Any],
    what: str,
    arithmetic: Arithmetic,
    device: torch.device,
    order_N: NDArray[np.int64] | None = None,
) -> Points:
    """Points on a device.

    Args:
        features_ND: float32 or float64 [N, D]; float32 is not copied on a CPU.
        what: plural noun for error lines.
        arithmetic: of the distances.
        device: where they will be computed.
        order_N: new order of the points, which leaves each in its block of `ADM_TILE`.

    Raises:
        DataError: features with NaN or infinities, in float16, or so large that a square leaves
            float32.
        ValueError: not a matrix of floats.
    """
    if features_ND.dtype == np.float16:
        raise DataError(
            f"{what} are float16, which rounds distances before any arithmetic does; "
            "give them as the float32 that the network computed"
        )
    check_finite_rows(features_ND, what)
    with np.errstate(over="ignore"):
        single_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
        norms_N = np.einsum("nd,nd->n", single_ND, single_ND)
    if not (norms_N < np.finfo(np.float32).max / 4).all():
        raise DataError(f"{what} are too large: their squared distances leave float32")
    # torch warns about arrays that are read-only, so these are copied.
    features = torch.from_numpy(np.require(single_ND, requirements="W")).to(device)
    points = Points(
        features,
        torch.from_numpy(norms_N).to(device),
        _half_norms(features) if arithmetic is Arithmetic.ADM_FLOAT16 else None,
    )
    return points if order_N is None else _reordered(points, torch.from_numpy(order_N).to(device))


class Distances:
    """Squared distances from points `u` (rows) to points `v` (columns), a tile at a time.

    Rows and columns of a tile must each lie in one block of `ADM_TILE` points, as those of `tiles`.
    """

    def __init__(self, u: Points, v: Points) -> None:
        """Decide the arithmetic of every block; both must be points of one arithmetic."""
        self._u, self._v = u, v
        self._half_BB = _half_blocks(u, v)

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Float32 [rows, columns]; not negative."""
        half = self._is_half(rows, columns)
        product = _product(self._u, self._v, rows, columns, half)
        return _finish(product, self._u, self._v, rows, columns).float()

    def both(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The tile and that of (columns, rows), from one matrix product, where `u` is `v`.

        The two are not transposes of each other, because the norms are added in another order.
        """
        half = self._is_half(rows, columns)
        if half != self._is_half(columns, rows):
            return self.tile(rows, columns), self.tile(columns, rows)
        product = _product(self._u, self._v, rows, columns, half)
        # Not contiguous(): the transpose of a single column is contiguous, and would share memory.
        back = product.T.clone(memory_format=torch.contiguous_format)
        return (
            _finish(product, self._u, self._v, rows, columns).float(),
            _finish(back, self._v, self._u, columns, rows).float(),
        )

    def _is_half(self, rows: slice, columns: slice) -> bool:
        return bool(self._half_BB[rows.start // ADM_TILE, columns.start // ADM_TILE])


def tiles(count: int, tile: int) -> list[slice]:
    """Slices of at most `tile` that cover range(count), cut at multiples of `ADM_TILE` as well."""
    return [
        slice(start, min(start + tile, block + ADM_TILE, count))
        for block in range(0, count, ADM_TILE)
        for start in range(block, min(block + ADM_TILE, count), tile)
    ]


def _reordered(points: Points, order_N: Tensor) -> Points:
    half_norms_N = points.half_norms_N
    return Points(
        points.features_ND[order_N],
        points.norms_N[order_N],
        None if half_norms_N is None else half_norms_N[order_N],
    )


def _half_norms(features_ND: Tensor) -> Tensor:
    """Float16 norms; ADM gives TensorFlow a block of points at a time."""
    blocks = tiles(len(features_ND), ADM_TILE)
    return torch.cat([float16_sums.squared_norms(features_ND[block]) for block in blocks])


def _half_blocks(u: Points, v: Points) -> NDArray[np.bool_]:
    """Which blocks of (u, v) are finite in float16; none in float32 arithmetic [B, B]."""
    row_blocks, column_blocks = tiles(len(u), ADM_TILE), tiles(len(v), ADM_TILE)
    half_BB = np.zeros((len(row_blocks), len(column_blocks)), dtype=np.bool_)
    if u.half_norms_N is None:
        return half_BB
    for i, rows in enumerate(row_blocks):
        for j, columns in enumerate(column_blocks):
            half_BB[i, j] = _is_finite_block(u, v, rows, columns)
    return half_BB


def _is_finite_block(u: Points, v: Points, rows: slice, columns: slice) -> bool:
    """Whether float16 holds all distances; from the norms when they can tell, else by trying."""
    half = torch.float16
    largest = max(float(u.norms(half)[rows].max()), float(v.norms(half)[columns].max()))
    if largest <= _SAFE_HALF_NORM:
        return True
    if largest == float("inf"):
        return False
    return all(
        bool(_finish(_product(u, v, i, j, True), u, v, i, j).isfinite().all())
        for i in _pieces(rows)
        for j in _pieces(columns)
    )


def _pieces(block: slice, step: int = 1000) -> list[slice]:
    starts = range(block.start, block.stop, step)
    return [slice(start, min(start + step, block.stop)) for start in starts]


def _product(u: Points, v: Points, rows: slice, columns: slice, half: bool) -> Tensor:
    """Inner products in float32; or those of halves, summed in float32 and then rounded.

    A product of two halves is exact in float32, and a CPU is fast at float32 alone.
    """
    u_ND, v_MD = u.features_ND[rows], v.features_ND[columns]
    if half:
        return (u_ND.half().float() @ v_MD.half().float().T).half()
    return u_ND @ v_MD.T


def _finish(product_NM: Tensor, u: Points, v: Points, rows: slice, columns: slice) -> Tensor:
    """max((|u|^2 - 2 u.v) + |v|^2, 0) in place, each operation rounded to the product's dtype.

    In float16 a doubled product may be infinite, which makes the distance 0: so it does in ADM.
    """
    product_NM.mul_(2)
    torch.sub(u.norms(product_NM.dtype)[rows, None], product_NM, out=product_NM)
    product_NM.add_(v.norms(product_NM.dtype)[columns])
    return product_NM.clamp_(min=0)
