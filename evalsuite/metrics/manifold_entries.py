"""Precision, recall, density and coverage as metrics, from one shared pass over the distances."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from evalsuite.config import ProtocolSpec
from evalsuite.metrics.neighbours import count_duplicates
from evalsuite.metrics.values import Computation, Detail, Least, MetricValue

_SAME = 1e-12
_MEANINGLESS = 0.5
"""No share of independent samples spreads so far; the jackknife of a step does."""


def share(name: str) -> Callable[[Computation], MetricValue]:
    """The metric `name` of `ManifoldShares`."""

    def compute(work: Computation) -> MetricValue:
        found = work.manifold
        value = float(getattr(found.values, name))
        if found.standard_errors is None:
            needed = work.manifold_settings.jackknife_samples
            return _without_error(
                value, f"it needs {needed} samples, there are {len(work.samples)}"
            )
        error = float(getattr(found.standard_errors, name))
        if error < _SAME:
            return _without_error(
                value, "the share is the same whichever group of samples is left out"
            )
        if error > _MEANINGLESS and name != "density":
            return _without_error(value, "leaving out any group of samples turns the share over")
        return MetricValue(value, error)

    return compute


def _without_error(value: float, why: str) -> MetricValue:
    return MetricValue(value, notes=(f"no standard error: {why}",))


def neighbour_fields(protocol: ProtocolSpec) -> Mapping[str, Detail]:
    """The protocol's fields that decide these metrics."""
    rule = protocol.neighbours
    strict: dict[str, Detail] = {"strict": True} if rule.strict else {}
    return {"k": rule.k, "arithmetic": rule.arithmetic, **strict}


def neighbour_least(protocol: ProtocolSpec, dim: int) -> Least:  # noqa: ARG001
    """A point and its k neighbours, of both sets."""
    k = protocol.neighbours.k
    return Least(k + 1, k + 1, f", for {k} neighbours")


def duplicates_note(features_ND: NDArray[Any]) -> str | None:
    """What to say when samples repeat, whose balls then have radius 0; None when none does."""
    repeated = count_duplicates(features_ND)
    have = "sample has" if repeated == 1 else "samples have"
    return f"{repeated} {have} exactly the features of an earlier one" if repeated else None
