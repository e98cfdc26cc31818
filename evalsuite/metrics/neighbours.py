"""Nearest reference images of some samples, found in tiles, and rows that occur twice.

Legend: N samples, M reference images, D feature dimensions, Q neighbours, C candidates.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.metrics.distances import (
    Arithmetic,
    Distances,
    points_of,
    tiles,
)
from evalsuite.metrics.exact_arithmetic import exact_float32

_TILE = 1000
_SPARE = 8
"""Candidates beyond those asked for: float32 may order near neighbours wrongly."""


class Neighbours(NamedTuple):
    """Euclidean distances, ascending, float64 [N, Q], and rows of the reference, int64 [N, Q]."""

    distances_NQ: NDArray[np.float64]
    indices_NQ: NDArray[np.int64]


def nearest(
    samples_ND: NDArray[Any],
    reference_MD: NDArray[Any],
    num_nearest: int,
    device: torch.device,
) -> Neighbours:
    """The nearest reference images of each sample.

    A few more candidates than asked for are found by float32 distances; theirs are then computed in
    float64 from the differences, so that equal features are at distance 0. Among candidates at
    equal distances the lower row comes first.

    Args:
        samples_ND: float32 or float64 [N, D]; a chosen subset, or all.
        reference_MD: likewise [M, D].
        num_nearest: Q.
        device: where distances are computed.

    Raises:
        DataError: fewer than Q reference images, no samples, different D, NaN, infinities or
            float16.
        ValueError: num_nearest is not positive, or not matrices of floats.
    """
    if num_nearest < 1:
        raise ValueError("num_nearest must be at least 1")
    _check_sets(samples_ND, reference_MD, num_nearest)
    count = min(num_nearest + _SPARE, len(reference_MD))
    with exact_float32(device):
        indices_NC = _candidates(samples_ND, reference_MD, count, device)
    found = [
        _ranked(samples_ND[rows], reference_MD, indices_NC[rows], num_nearest)
        for rows in tiles(len(samples_ND), _TILE)
    ]
    return Neighbours(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def count_duplicates(features_ND: NDArray[Any]) -> int:
    """How many rows equal an earlier row exactly; 0.0 and -0.0 are equal.

    k + 1 equal rows give each other balls of radius 0, which hold nothing but copies.
    """
    seen: set[bytes] = set()
    for row_D in features_ND:
        seen.add(hashlib.blake2b((row_D + 0.0).tobytes(), digest_size=16).digest())
    return len(features_ND) - len(seen)


def _candidates(
    samples_ND: NDArray[Any], reference_MD: NDArray[Any], count: int, device: torch.device
) -> NDArray[np.int64]:
    """Rows of the `count` nearest images in float32, in any order [N, C]."""
    samples = points_of(samples_ND, "sample features", Arithmetic.FLOAT32, device)
    reference = points_of(reference_MD, "reference features", Arithmetic.FLOAT32, device)
    distances = Distances(samples, reference)
    chosen: list[Tensor] = []
    for rows in tiles(len(samples), _TILE):
        kept_NC = samples.norms_N.new_empty((rows.stop - rows.start, 0))
        where_NC = torch.empty(kept_NC.shape, dtype=torch.int64, device=device)
        for columns in tiles(len(reference), _TILE):
            block = distances.tile(rows, columns)
            near, where = block.topk(min(count, block.shape[1]), dim=1, largest=False)
            all_near = torch.cat((kept_NC, near), dim=1)
            all_where = torch.cat((where_NC, where + columns.start), dim=1)
            kept_NC, order = all_near.topk(min(count, all_near.shape[1]), dim=1, largest=False)
            where_NC = all_where.gather(1, order)
        chosen.append(where_NC)
    indices_NC: NDArray[np.int64] = torch.cat(chosen).cpu().numpy()
    return indices_NC


def _ranked(
    samples_ND: NDArray[Any],
    reference_MD: NDArray[Any],
    indices_NC: NDArray[np.int64],
    num_nearest: int,
) -> Neighbours:
    """The first `num_nearest` candidates by exact distance."""
    indices_NC = np.sort(indices_NC, axis=1)
    squares_NC = np.empty(indices_NC.shape)
    double_ND = samples_ND.astype(np.float64)
    for candidate, indices_N in enumerate(indices_NC.T):
        differences_ND = double_ND - reference_MD[indices_N]
        squares_NC[:, candidate] = np.einsum("nd,nd->n", differences_ND, differences_ND)
    order_NQ = np.argsort(squares_NC, axis=1, kind="stable")[:, :num_nearest]
    return Neighbours(
        np.sqrt(np.take_along_axis(squares_NC, order_NQ, axis=1)),
        np.take_along_axis(indices_NC, order_NQ, axis=1),
    )


def _check_sets(samples_ND: NDArray[Any], reference_MD: NDArray[Any], num_nearest: int) -> None:
    for features, what in ((samples_ND, "sample"), (reference_MD, "reference")):
        if features.ndim != 2:
            raise ValueError(f"{what} features must be a matrix, got {features.ndim} dimensions")
    if not len(samples_ND):
        raise DataError("there are no samples to find neighbours of")
    if samples_ND.shape[1] != reference_MD.shape[1]:
        raise DataError(
            f"samples have {samples_ND.shape[1]} feature dimensions, "
            f"the reference has {reference_MD.shape[1]}"
        )
    if len(reference_MD) < num_nearest:
        raise DataError(
            f"{num_nearest} neighbours were asked for, the reference has {len(reference_MD)} images"
        )
