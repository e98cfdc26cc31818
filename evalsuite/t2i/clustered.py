"""Intervals for shares of images, clustered by prompt: images of one prompt are not independent.

Source: the linearised variance of a ratio of cluster totals (Cochran 1977, "Sampling Techniques",
chapter 6; Liang and Zeger 1986); Dean and Pagano 2015 for the Wilson interval at the effective
number of images; Zou and Donner 2008 for the interval of a sum from the intervals of its parts;
Satterthwaite 1946 for the degrees of freedom of a difference.
Legend: G prompts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from evalsuite.errors import DataError

LEVEL = 0.95
LARGEST_SCORE = 1e100
"""Of one image, either way: of larger ones neither mean nor variance is a number."""
_ROUNDING = 1e-12
"""Standard errors below this share of the largest score are rounding: nothing varied."""


class Cluster(NamedTuple):
    """One prompt: what its images scored in all, and how many there are."""

    key: str
    total: float
    images: int


class Estimate(NamedTuple):
    """A value and what is known of its error.

    Attributes:
        value: share or mean.
        standard_error: None where one prompt stands alone.
        interval: at the level of 95 %; None where there is no standard error.
        num_prompts: clusters behind it.
    """

    value: float
    standard_error: float | None
    interval: tuple[float, float] | None
    num_prompts: int


class _Linear(NamedTuple):
    """A mean with the influence of each prompt, in the order of their keys."""

    value: float
    influence_G: NDArray[np.float64]
    scale: float
    """The largest mean of a prompt that went into it: what rounding is measured against."""


def share(clusters: Sequence[Cluster]) -> Estimate:
    """Share of correct images, with a Wilson interval at the effective number of images.

    Where all images are right, or none is, the prompts stand in for the images: no interval has
    the width zero.

    Raises:
        DataError: there is no image.
    """
    linear, images = _linear(clusters), sum(cluster.images for cluster in clusters)
    variance = _variance(linear)
    if variance is None:
        return Estimate(linear.value, None, None, len(clusters))
    interval = _bounded(linear.value, variance, len(clusters), images)
    return Estimate(linear.value, math.sqrt(variance), interval, len(clusters))


def mean(clusters: Sequence[Cluster]) -> Estimate:
    """Mean of a score without bounds over images, with a t interval.

    Raises:
        DataError: there is no image.
    """
    linear = _linear(clusters)
    return _estimate(linear.value, [(_variance(linear), len(clusters) - 1)], len(clusters))


def mean_within(clusters: Sequence[Cluster], most: float) -> Estimate:
    """Mean of a score from 0 to `most` over images, with the interval of a share: it stays within.

    Raises:
        DataError: there is no image.
    """
    linear = _linear(clusters)
    variance = _variance(linear)
    if variance is None:
        return Estimate(linear.value, None, None, len(clusters))
    low, high = _bounded(linear.value / most, variance / most**2, len(clusters), math.inf)
    interval = (low * most, high * most)
    return Estimate(linear.value, math.sqrt(variance), interval, len(clusters))


def mean_of_tags(tags: Mapping[str, Sequence[Cluster]]) -> Estimate:
    """GenEval's overall: the plain mean of the tags' shares, whose prompts are disjoint.

    The distances from the shares to the ends of their intervals are added as errors are, so that
    the interval stays between 0 and 1, and has a width where all images of a tag are right.

    Raises:
        DataError: there is no tag, or one without images.
    """
    if not tags:
        raise DataError("there is no tag to average")
    parts = [share(clusters) for clusters in tags.values()]
    value = sum(part.value for part in parts) / len(parts)
    num_prompts = sum(part.num_prompts for part in parts)
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    ends = [(part.value, *part.interval) for part in parts if part.interval is not None]
    if len(ends) < len(parts):
        return Estimate(value, None, None, num_prompts)
    below = math.hypot(*(p - low for p, low, _ in ends)) / len(parts)
    above = math.hypot(*(high - p for p, _, high in ends)) / len(parts)
    interval = (max(value - below, 0.0), min(value + above, 1.0))
    return Estimate(value, math.hypot(*errors) / len(parts), interval, num_prompts)


def difference(a: Sequence[Cluster], b: Sequence[Cluster]) -> Estimate:
    """Of two models on the same prompts: share(a) - share(b), paired prompt by prompt.

    Raises:
        DataError: the prompts are not the same.
    """
    linear = _paired(a, b)
    return _estimate(linear.value, [(_variance(linear), len(a) - 1)], len(a))


def difference_of_tags(
    a: Mapping[str, Sequence[Cluster]], b: Mapping[str, Sequence[Cluster]]
) -> Estimate:
    """Of two models on the same prompts: overall(a) - overall(b), paired prompt by prompt.

    Raises:
        DataError: the tags or the prompts are not the same.
    """
    if a.keys() != b.keys() or not a:
        raise DataError(f"tags {sorted(a)} and {sorted(b)} cannot be compared")
    linears = [_paired(a[tag], b[tag]) for tag in a]
    return _estimate(
        sum(linear.value for linear in linears) / len(a),
        [_scaled(linear, len(a)) for linear in linears],
        sum(len(clusters) for clusters in a.values()),
    )


def _linear(clusters: Sequence[Cluster]) -> _Linear:
    ordered = sorted(clusters)
    keys = [cluster.key for cluster in ordered]
    if len(set(keys)) != len(keys):
        raise DataError("a prompt is there twice")
    totals = np.array([cluster.total for cluster in ordered], dtype=np.float64)
    counts = np.array([cluster.images for cluster in ordered], dtype=np.float64)
    if not counts.sum() > 0:
        raise DataError("there are no images to average")
    value = float(totals.sum() / counts.sum())
    scale = float(np.abs(totals / np.maximum(counts, 1)).max())
    return _Linear(value, (totals - value * counts) / counts.sum(), scale)


def _paired(a: Sequence[Cluster], b: Sequence[Cluster]) -> _Linear:
    missing = {cluster.key for cluster in a} ^ {cluster.key for cluster in b}
    if missing:
        raise DataError(
            f"{len(missing)} prompts are scored on one side alone, such as {min(missing)[:80]!r}: a"
            " paired comparison needs the same prompts on both sides"
        )
    first, second = _linear(a), _linear(b)
    influence_G = first.influence_G - second.influence_G
    return _Linear(first.value - second.value, influence_G, max(first.scale, second.scale))


def _variance(linear: _Linear) -> float | None:
    """Of the mean; 0 where no more than rounding varies, None of one prompt alone."""
    prompts = len(linear.influence_G)
    if prompts < 2:
        return None
    variance = float(linear.influence_G @ linear.influence_G) * prompts / (prompts - 1)
    return variance if variance > (_ROUNDING * linear.scale) ** 2 else 0.0


def _scaled(linear: _Linear, num_tags: int) -> tuple[float | None, int]:
    variance = _variance(linear)
    return None if variance is None else variance / num_tags**2, len(linear.influence_G) - 1


def _estimate(
    value: float, parts: Sequence[tuple[float | None, int]], num_prompts: int
) -> Estimate:
    """A t interval for a sum of independent parts, each with its variance and its freedom."""
    known = [(variance, freedom) for variance, freedom in parts if variance is not None]
    variance = sum(v for v, _ in known)
    if len(known) < len(parts) or variance <= 0:
        return Estimate(value, 0.0 if len(known) == len(parts) else None, None, num_prompts)
    freedom = 1 / sum((v / variance) ** 2 / f for v, f in known)
    half = _quantile(freedom) * math.sqrt(variance)
    return Estimate(value, math.sqrt(variance), (value - half, value + half), num_prompts)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def _bounded(value: float, variance: float, prompts: int, most: float) -> tuple[float, float]:
    """Wilson's interval of a mean from 0 to 1 at the number of images that its variance speaks of.

    That is `most` at the most; where nothing varies, it is the number of prompts.
    """
    p = min(max(value, 0.0), 1.0)
    varies = variance > 0 and 0 < p < 1
    images = min(p * (1 - p) / variance, most) if varies else prompts
    return _wilson(p, images, _quantile(prompts - 1))


def _wilson(p: float, images: float, quantile: float) -> tuple[float, float]:
    square = quantile**2 / images
    centre = (p + square / 2) / (1 + square)
    half = quantile * math.sqrt(p * (1 - p) / images + square / (4 * images)) / (1 + square)
    return max(centre - half, 0.0), min(centre + half, 1.0)
