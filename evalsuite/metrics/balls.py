"""Balls around points that reach to their k-th neighbour, also without each group of the points.

Legend: N points, G groups, Q nearest neighbours kept per group, T thresholds per point, H the most
neighbours that can matter.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.metrics.distances import ADM_TILE, Distances, Points, tiles

_REMOVED = -1.0


class Segment(NamedTuple):
    """Consecutive points of one group."""

    group: int
    start: int
    stop: int


class Grouping:
    """An order of points in which those of a group are consecutive within blocks of `ADM_TILE`.

    Attributes:
        order_N: numbers of the points in this order.
        groups_N: group of each, in this order.
        num_groups: how many groups there are.
    """

    def __init__(self, groups_N: NDArray[np.int64], num_groups: int) -> None:
        """Sort points by block, then group, then number."""
        self.order_N = np.lexsort((groups_N, np.arange(len(groups_N)) // ADM_TILE))
        self.groups_N = groups_N[self.order_N]
        self.num_groups = num_groups
        cuts = [0, *(np.flatnonzero(np.diff(self.groups_N)) + 1).tolist(), len(groups_N)]
        self._segments = [
            Segment(int(self.groups_N[start]), start, stop)
            for start, stop in itertools.pairwise(cuts)
        ]

    def within(self, columns: slice) -> Iterator[tuple[int, slice]]:
        """Each group that some of the points belong to, and where; counted from the first."""
        for group, start, stop in self._segments:
            first, end = max(start, columns.start), min(stop, columns.stop)
            if first < end:
                yield group, slice(first - columns.start, end - columns.start)


def one_group(count: int) -> Grouping:
    """All points in one group, in their own order."""
    return Grouping(np.zeros(count, dtype=np.int64), 1)


def nearest_by_group(points: Points, grouping: Grouping, num_nearest: int, tile: int) -> Tensor:
    """The `num_nearest` smallest distances from each point to each group [N, G, Q], unsorted.

    Each pair of tiles is multiplied once. The point itself counts in its own group. Groups with
    fewer points are filled with infinity.

    Args:
        points: in the grouping's order.
        grouping: of these points.
        num_nearest: Q.
        tile: rows and columns of the distance matrix in memory at once.
    """
    nearest_NGQ = points.norms_N.new_full((len(points), grouping.num_groups, num_nearest), np.inf)
    distances = Distances(points, points)
    pieces = tiles(len(points), tile)
    for index, rows in enumerate(pieces):
        _keep_nearest(nearest_NGQ[rows], grouping, rows, distances.tile(rows, rows))
        for columns in pieces[index + 1 :]:
            block, back = distances.both(rows, columns)
            _keep_nearest(nearest_NGQ[rows], grouping, columns, block)
            _keep_nearest(nearest_NGQ[columns], grouping, rows, back)
    return nearest_NGQ


def radii_of(nearest_NGQ: Tensor) -> Tensor:
    """The largest of the nearest distances when there is one group: squared radii [N]."""
    return nearest_NGQ.amax(dim=(1, 2))


def thresholds_of(nearest_NGQ: Tensor, groups_N: Tensor) -> Tensor:
    """Squared radius of each point's ball: among all, then without each group [N, 1 + G].

    Without its own group a point has no ball, which is a radius that no distance reaches. Leaving
    a group out takes at most Q of a point's neighbours away, so the 2 Q nearest decide everything.
    """
    count, num_groups, num_nearest = nearest_NGQ.shape
    flat = nearest_NGQ.reshape(count, -1)
    nearest_NH, where_NH = flat.topk(min(2 * num_nearest, flat.shape[1]), largest=False)
    group_NH = where_NH // num_nearest
    thresholds_NT = nearest_NGQ.new_empty((count, 1 + num_groups))
    thresholds_NT[:, 0] = nearest_NH[:, num_nearest - 1]
    for group in range(num_groups):
        others_NH = nearest_NH.masked_fill(group_NH == group, np.inf)
        kept = others_NH.topk(num_nearest, largest=False, sorted=False).values
        thresholds_NT[:, 1 + group] = kept.amax(dim=1)
    thresholds_NT.scatter_(1, 1 + groups_N[:, None], _REMOVED)
    return thresholds_NT


def _keep_nearest(
    nearest_RGQ: Tensor, grouping: Grouping, columns: slice, block_RC: Tensor
) -> None:
    """Merge a tile's distances from some rows R to some columns C, in place."""
    num_nearest = nearest_RGQ.shape[2]
    for group, piece in grouping.within(columns):
        found = _smallest(block_RC[:, piece], num_nearest)
        merged = torch.cat((nearest_RGQ[:, group], found), dim=1)
        nearest_RGQ[:, group] = _smallest(merged, num_nearest)


def _smallest(values: Tensor, count: int) -> Tensor:
    if values.shape[1] <= count:
        return values
    return values.topk(count, dim=1, largest=False, sorted=False).values
