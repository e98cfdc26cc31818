"""Who leads a rung, and whom the paired interval against the leader excludes.

Legend: N samples.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.metrics.intervals import paired_standard_error

Direction = Literal["lower", "higher"]
LOSS = 0.05
"""Chance, over all rungs and configurations of a sweep, that the best one is excluded."""


class Judged(NamedTuple):
    """What one configuration is ranked by on a rung.

    Attributes:
        value: the metric, or its extrapolation.
        influence_N: of each sample on `value`; None where the metric has none.
        standard_error: of `value`, where pairs give none; None where nobody knows it.
        drift: what the last step of an extrapolation moved; 0 of a plain value.
    """

    value: float
    influence_N: NDArray[np.float64] | None = None
    standard_error: float | None = None
    drift: float = 0.0


class Verdict(NamedTuple):
    """One configuration against the leader of a rung.

    Attributes:
        name: of the configuration.
        value: what it is ranked by.
        difference: its value less the leader's; 0 of the leader.
        standard_error: of the difference; None where none can be given.
        paired: whether that is the error of pairs.
        half_width: of the simultaneous interval of the difference, drift included.
        excluded: whether the interval says that the leader is better.
    """

    name: str
    value: float
    difference: float
    standard_error: float | None
    paired: bool
    half_width: float | None
    excluded: bool


def critical_value(num_compared: int, num_rungs: int) -> float:
    """Half width of an interval in standard errors, such that all of a sweep hold at once.

    The leader is the best of several, and is found again on each rung: intervals of 95 % each would
    exclude the best configuration far more often than in 5 % of sweeps.

    Source: Bonferroni's inequality.

    Args:
        num_compared: configurations that are compared with the leader on this rung.
        num_rungs: of the sweep.
    """
    share = LOSS / max(1, num_compared) / max(1, num_rungs)
    return NormalDist().inv_cdf(1.0 - share / 2.0)


def judge(
    judged: Mapping[str, Judged],
    *,
    better: Direction,
    num_rungs: int,
    strata_N: NDArray[np.int64] | None,
    may_exclude: bool = True,
) -> list[Verdict]:
    """Verdicts, the leader first, then by value.

    The interval of a difference is z SE, and of an extrapolated one wider by what the last step of
    the extrapolation moved that difference.

    Args:
        judged: configurations by name, of the same samples; a value may be NaN, which comes last.
        better: direction of the metric.
        num_rungs: of the sweep.
        strata_N: labels when they are balanced.
        may_exclude: whether the values of this rung may be a reason to drop one.
    """
    sign = 1.0 if better == "lower" else -1.0
    order = sorted(judged, key=lambda name: _place(sign * judged[name].value))
    leader = judged[order[0]]
    z = critical_value(len(order) - 1, num_rungs)
    verdicts = []
    for name in order:
        one = judged[name]
        difference = one.value - leader.value
        if name == order[0]:
            verdicts.append(Verdict(name, one.value, 0.0, None, False, None, False))
            continue
        error, paired = _error(one, leader, strata_N)
        width = None if error is None else z * error + abs(one.drift - leader.drift)
        behind = width is not None and sign * difference > width
        verdicts.append(
            Verdict(name, one.value, difference, error, paired, width, behind and may_exclude)
        )
    return verdicts


def _place(value: float) -> tuple[bool, float]:
    return math.isnan(value), value


def _error(
    one: Judged, leader: Judged, strata_N: NDArray[np.int64] | None
) -> tuple[float | None, bool]:
    """Standard error of a difference, and whether it is of pairs."""
    if one.influence_N is not None and leader.influence_N is not None:
        return paired_standard_error(one.influence_N, leader.influence_N, strata_N), True
    if one.standard_error is None or leader.standard_error is None:
        return None, False
    return math.hypot(one.standard_error, leader.standard_error), False
