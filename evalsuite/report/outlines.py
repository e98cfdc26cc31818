"""Masks as outlines: from lengths of runs to the path that an SVG draws around them.

Legend: H height, W width.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
_LARGEST_SIDE = 128
"""Of the grid on which an outline is drawn: finer steps would not be seen, and fill the page."""


def mask_of_runs(runs: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Bool [H,W] of the lengths of runs of 0 and 1 in turns, row by row.

    Raises:
        ValueError: they are not of this size.
    """
    height, width = size
    lengths = np.asarray(runs, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError(f"runs of {int(lengths.sum())} pixels are no mask of {height}x{width}")
    values = (np.arange(len(lengths)) % 2).astype(bool)
    return np.repeat(values, lengths).reshape(height, width)


def outline_of(mask_HW: NDArray[np.bool_]) -> str:
    """An SVG path around a mask in its own pixels; coarser for a large one.

    Holes are inner loops, so that the rule `evenodd` leaves them open.
    """
    step = -(-max(mask_HW.shape) // _LARGEST_SIDE)
    coarse = mask_HW[step // 2 :: step, step // 2 :: step]
    loops = _loops(_edges(np.pad(coarse, 1)))
    return "".join(_drawn(loop, step) for loop in loops)


def _edges(padded: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Directed unit edges (x, y) => (x, y) with the mask at their right hand."""
    found: dict[Point, list[Point]] = {}
    inside = padded[1:-1, 1:-1]
    sides = {
        ((0, 0), (1, 0)): padded[:-2, 1:-1],  # above
        ((1, 0), (1, 1)): padded[1:-1, 2:],  # right
        ((1, 1), (0, 1)): padded[2:, 1:-1],  # below
        ((0, 1), (0, 0)): padded[1:-1, :-2],  # left
    }
    for (first, last), beyond in sides.items():
        for y, x in np.argwhere(inside & ~beyond).tolist():
            start, end = (x + first[0], y + first[1]), (x + last[0], y + last[1])
            found.setdefault(start, []).append(end)
    return found


def _loops(edges: dict[Point, list[Point]]) -> list[list[Point]]:
    """Closed loops of corners, each edge used once."""
    loops = []
    while edges:
        start = at = min(edges)
        loop: list[Point] = []
        while at in edges:
            ends = edges[at]
            nearest = ends.pop()
            if not ends:
                del edges[at]
            loop.append(at)
            at = nearest
            if at == start:
                break
        loops.append(_corners(loop))
    return loops


def _corners(loop: list[Point]) -> list[Point]:
    """Without the points in the middle of straight lines."""
    count = len(loop)
    return [
        point
        for place, point in enumerate(loop)
        if not _straight(loop[place - 1], point, loop[(place + 1) % count])
    ]


def _straight(a: Point, b: Point, c: Point) -> bool:
    return (a[0] == b[0] == c[0]) or (a[1] == b[1] == c[1])


def _drawn(corners: list[Point], step: int) -> str:
    x, y = corners[0]
    parts = [f"M{x * step} {y * step}"]
    for before, after in itertools.pairwise(corners):
        horizontal = before[1] == after[1]
        parts.append(f"H{after[0] * step}" if horizontal else f"V{after[1] * step}")
    return "".join(parts) + "Z"
