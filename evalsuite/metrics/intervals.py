"""Standard errors from per-sample influence values, and estimates from halves and replicates.

Legend: N samples. A stratum is a class whose number of samples was fixed beforehand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError


@dataclass(frozen=True, eq=False)
class HalvedInfluence:
    """Influence values of all samples, and those that the same samples have within their half.

    Attributes:
        influence_N: float64 [N], from the fit to all samples.
        in_halves_N: float64 [N], from the fits to the two halves, each to its own.
        halves_N: 0 or 1, the half of each sample; see `balanced_groups`.
    """

    influence_N: NDArray[np.float64]
    in_halves_N: NDArray[np.float64]
    halves_N: NDArray[np.int64]


class ReplicateMean(NamedTuple):
    """Mean of replicates, and its standard error (None for a single replicate)."""

    mean: float
    standard_error: float | None


def standard_error(influence_N: NDArray[Any], strata_N: NDArray[Any] | None = None) -> float:
    """Standard error of the metric behind these influence values: sqrt(variance / N).

    With strata the variance is the pooled one within classes, because balanced labels are a
    stratified sample: how many images a class has did not vary. It is exact for equal classes.

    Source: the delta method (von Mises 1947); Cochran 1977, "Sampling Techniques", chapter 5, for
    strata.

    Args:
        influence_N: float [N], see `frechet_influence` and `influence_of_splits`.
        strata_N: integer class of each sample; None when the samples are independent.

    Raises:
        DataError: no degree of freedom (one sample, or one in each class), or values not finite.
        ValueError: arrays whose shapes do not fit, or strata that are not integers.
    """
    if influence_N.ndim != 1:
        raise ValueError("influence values must be one-dimensional")
    values_N = influence_N.astype(np.float64)
    if not np.isfinite(values_N).all():
        raise DataError("influence values are NaN or infinite, so there is no standard error")
    freedom = degrees_of_freedom(len(values_N), strata_N)
    if freedom < 1:
        raise DataError(f"no variance can be estimated from {len(values_N)} samples, one per class")
    class_N = _classes(len(values_N), strata_N)
    means = np.bincount(class_N, weights=values_N) / np.bincount(class_N)
    residuals_N = values_N - means[class_N]
    return math.sqrt(float(residuals_N @ residuals_N) / freedom / len(values_N))


def paired_standard_error(
    influence_a_N: NDArray[Any],
    influence_b_N: NDArray[Any],
    strata_N: NDArray[Any] | None = None,
) -> float:
    """Standard error of metric(a) - metric(b), where sample i of both shares noise and label.

    What a single distance's error has in excess (`standard_error_from_halves`) cancels here: by
    simulation 31 of 32 cells cover 93.2 to 98.2 % (`docs/uncertainty-simulation.md`).

    Source: the delta method on the difference. Arguments and errors are those of
    `standard_error`; a ValueError too when the two have different lengths.
    """
    if influence_a_N.shape != influence_b_N.shape:
        raise ValueError("paired influence values must have equal shapes")
    difference_N = influence_a_N.astype(np.float64) - influence_b_N.astype(np.float64)
    return standard_error(difference_N, strata_N)


def standard_error_from_halves(
    halved: HalvedInfluence, strata_N: NDArray[Any] | None = None
) -> float:
    """`standard_error` without its bias of second order, which is large for small distances.

    A metric that is curved in its samples has variance (v + d / 2) / N, where d falls as 1/N, but
    influence values that are taken at the samples themselves vary by v + d. In halves they vary by
    v + 2 d, so the excess shows: variance = all - (halves - all) / 2. As d cannot exceed
    the whole, at least half of the plain variance stays. Where the set is close to the reference
    the plain error is up to 1.5 times too wide (`docs/uncertainty-simulation.md`).

    Source: Efron and Stein 1981, "The jackknife estimate of variance": a jackknife counts the
    interaction of two samples twice.

    Args:
        halved: see `frechet.halved_influence`.
        strata_N: as in `standard_error`.

    Raises:
        DataError: as `standard_error`, for all samples or for a half.
        ValueError: as `standard_error`.
    """
    whole = standard_error(halved.influence_N, strata_N) ** 2
    halves = [
        standard_error(
            halved.in_halves_N[halved.halves_N == half],
            None if strata_N is None else strata_N[halved.halves_N == half],
        )
        ** 2
        / 2
        for half in (0, 1)
    ]
    return math.sqrt(max(whole - (sum(halves) / 2 - whole) / 2, whole / 2))


def extrapolated(value_N: float, mean_value_half: float) -> float:
    """2 F(N) - mean F(N/2), the value at infinite N when the bias is proportional to 1/N.

    Source: Richardson's extrapolation; Chong and Forsyth 2020 ("Effectively unbiased FID and
    Inception Score") fit the same 1/N line through more points.
    """
    return 2.0 * value_N - mean_value_half


def mean_over_replicates(values: Sequence[float]) -> ReplicateMean:
    """Mean of independent replicates and its standard error, from their spread.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 1:
        return ReplicateMean(float(array[0]), None)
    return ReplicateMean(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array)))


def degrees_of_freedom(num_samples: int, strata_N: NDArray[Any] | None = None) -> int:
    """Samples less the means that are estimated from them: one, or one for each class."""
    class_N = _classes(num_samples, strata_N)
    return num_samples - int(class_N.max(initial=0)) - 1


def balanced_groups(
    num_samples: int, num_groups: int, strata_N: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Divide samples into groups of equal size in which the classes are equally frequent.

    Samples are dealt out like cards, class after class and within a class by index, so group sizes
    differ by at most 1, and so do the counts of a class among groups. Without strata they are dealt
    in a fixed shuffled order: the classes of outside samples are unknown but often periodic in the
    index, and dealing by index would give each group classes of its own.

    Returns:
        int64 [N], 0 to num_groups - 1.
    """
    if strata_N is None:
        order_N = np.random.default_rng(0).permutation(num_samples)
    else:
        order_N = np.argsort(_classes(num_samples, strata_N), kind="stable")
    groups_N = np.empty(num_samples, dtype=np.int64)
    groups_N[order_N] = np.arange(num_samples) % num_groups
    return groups_N


def _classes(num_samples: int, strata_N: NDArray[Any] | None) -> NDArray[np.int64]:
    """Classes renumbered 0, 1, ... without gaps; all 0 without strata."""
    if strata_N is None:
        return np.zeros(num_samples, dtype=np.int64)
    if strata_N.shape != (num_samples,) or not np.issubdtype(strata_N.dtype, np.integer):
        raise ValueError(
            f"strata must be {num_samples} integers, got {strata_N.dtype} {strata_N.shape}"
        )
    return np.unique(strata_N, return_inverse=True)[1].astype(np.int64)
