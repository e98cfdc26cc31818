"""The Frechet distance at infinite N, from a line in 1/N through subsets of growing size.

Legend: N samples, D feature dimensions, P points of the line.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.frechet import ReferenceFactor, frechet_distance
from evalsuite.metrics.moments import Moments, MomentsAccumulator, check_finite_rows

NUM_POINTS = 15
ORDER_SEED = 0
SMALLEST = 5000
SMALLEST_SHARE = 10
SMALLEST_SAMPLES_PER_DIM = 4
"""Below 4 D samples the bias of a distance is far from a line in 1/N."""


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """A line through distances of subsets.

    Attributes:
        value: the intercept, the distance at infinite N. May fall below 0 by its error.
        slope: of the distance in 1 / N.
        sizes_P: samples in each subset.
        distances_P: the distance of each.
        residual: root mean square deviation from the line. The subsets share samples, so it is no
            error of the value; nor would one from influence values hold the curvature of the bias,
            which near 0 is as large.
    """

    value: float
    slope: float
    sizes_P: tuple[int, ...]
    distances_P: tuple[float, ...]
    residual: float


def frechet_at_infinity(
    features_ND: NDArray[Any],
    reference: ReferenceFactor,
    num_points: int = NUM_POINTS,
    sizes: Sequence[int] | None = None,
) -> Extrapolation:
    """Fit a line in 1/N to the distances of subsets and take it at 0.

    The subsets are drawn in turn from one fixed pseudo-random order, each beginning where the one
    before it ended, so that all samples are used equally often within one.

    Source: Chong and Forsyth 2020, "Effectively unbiased FID and Inception Score", section 4:
    15 sizes, evenly spaced from 5,000 to N, ordinary least squares. They draw each subset anew.

    Args:
        features_ND: float32 or float64 [N, D].
        reference: factorised once.
        num_points: P, at least 3.
        sizes: of the subsets; None spaces them from `smallest_size` to N.

    Raises:
        DataError: features that moments refuse, or fewer than twice the smallest size.
        ValueError: fewer than 3 points, or sizes that are equal or not within 2 to N.
    """
    check_finite_rows(features_ND, "features")
    count, dim = features_ND.shape
    if sizes is None:
        sizes = _even_sizes(count, dim, num_points)
    if len(sizes) < 3 or len(set(sizes)) < 2 or not 2 <= min(sizes) <= max(sizes) <= count:
        raise ValueError(f"a line needs at least 3 sizes within 2 to {count}, got {list(sizes)}")
    order_N = np.random.default_rng(ORDER_SEED).permutation(count)
    distances = [
        frechet_distance(moments, reference)
        for moments in _moments_of_runs(features_ND, order_N, sizes)
    ]
    return _line(sizes, distances)


def smallest_size(count: int, dim: int) -> int:
    """The paper's 5,000, or a tenth of fewer samples, but at least 4 samples per dimension."""
    scaled = min(SMALLEST, count // SMALLEST_SHARE)
    return max(scaled, SMALLEST_SAMPLES_PER_DIM * dim)


def _moments_of_runs(
    features_ND: NDArray[Any], order_N: NDArray[np.int64], sizes: Sequence[int]
) -> Iterator[Moments]:
    """Moments of the subsets, each where the one before it ended, around the order.

    The ends of subsets cut the order in pieces. Each piece is added up once, and a subset is its
    pieces merged, so that N rows are added up and not the sum of the sizes. Up to P + 1 matrices
    [D, D] are held.
    """
    count = len(order_N)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    cuts = sorted({0, *(ends % count).tolist()})
    pieces = []
    for low, high in itertools.pairwise([*cuts, count]):
        piece = MomentsAccumulator()
        piece.update(features_ND[order_N[low:high]])
        pieces.append(piece)
    number = {cut: place for place, cut in enumerate(cuts)}
    for size, start in zip(sizes, ends[:-1], strict=True):
        subset, place, taken = MomentsAccumulator(), number[int(start) % count], 0
        while taken < size:
            subset.merge(pieces[place])
            taken += pieces[place].count
            place = (place + 1) % len(pieces)
        yield subset.result()


def _even_sizes(count: int, dim: int, num_points: int) -> list[int]:
    smallest = smallest_size(count, dim)
    if count < 2 * smallest:
        raise DataError(
            f"extrapolating to infinite N needs at least {2 * smallest} samples with {dim} "
            f"feature dimensions, there are {count}"
        )
    return [int(size) for size in np.linspace(smallest, count, num_points)]


def _line(sizes: Sequence[int], distances: list[float]) -> Extrapolation:
    x_P, y_P = 1.0 / np.asarray(sizes), np.asarray(distances)
    slope = float((x_P - x_P.mean()) @ y_P / ((x_P - x_P.mean()) ** 2).sum())
    value = float(y_P.mean() - slope * x_P.mean())
    residual = float(np.sqrt(np.mean((y_P - value - slope * x_P) ** 2)))
    return Extrapolation(value, slope, tuple(sizes), tuple(distances), residual)
