"""Which classes a metric's value comes from, by the influence values of their samples.

Legend: N samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError


@dataclass(frozen=True)
class ClassShare:
    """What the samples of one class do to a metric.

    Attributes:
        label: the class.
        count: its samples.
        influence: mean influence of its samples: the first-order change of the metric per unit of
            extra weight on the class. Above 0 the class pushes the metric up.
        standard_error: of that mean, from the spread within the class; None for one sample.
        contribution: count / N * (value + influence). Contributions of all classes sum to the
            value, and a class whose samples are like the whole has its share of the samples.
    """

    label: int
    count: int
    influence: float
    standard_error: float | None
    contribution: float


def decompose_by_class(
    value: float, influence_N: NDArray[Any], labels_N: NDArray[Any]
) -> list[ClassShare]:
    """Share of every class, by label.

    For a Frechet distance it is a derivative, not a distance of the class: a class may push the
    distance up because its images are poor, or because it is unlike the mean of all classes
    in a direction in which the samples vary too much.

    Args:
        value: the metric.
        influence_N: float [N], mean 0; see `frechet.FrechetFit.influence`.
        labels_N: integers [N].

    Raises:
        DataError: no samples, or influence values that are not finite.
        ValueError: arrays of different lengths, or labels that are not integers.
    """
    if influence_N.shape != labels_N.shape or influence_N.ndim != 1:
        raise ValueError(f"{influence_N.shape} influence values do not fit {labels_N.shape} labels")
    if not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels_N.dtype}")
    if not len(influence_N):
        raise DataError("a decomposition by class needs samples, there are 0")
    if not np.isfinite(influence_N).all():
        raise DataError("influence values are NaN or infinite, so classes have no share")
    values_N = influence_N.astype(np.float64)
    labels, class_N = np.unique(labels_N, return_inverse=True)
    counts = np.bincount(class_N)
    means = np.bincount(class_N, weights=values_N) / counts
    squares = np.bincount(class_N, weights=(values_N - means[class_N]) ** 2)
    return [
        ClassShare(
            int(label),
            int(count),
            float(mean),
            math.sqrt(square / (count - 1) / count) if count > 1 else None,
            float(count / len(values_N) * (value + mean)),
        )
        for label, count, mean, square in zip(labels, counts, means, squares, strict=True)
    ]


def top_classes(
    shares: Sequence[ClassShare], num_classes: int, *, lowest: bool = False
) -> list[ClassShare]:
    """The classes with the highest (or lowest) mean influence, the most extreme first."""
    ordered = sorted(shares, key=lambda share: (share.influence, share.label))
    return ordered[:num_classes] if lowest else ordered[::-1][:num_classes]
