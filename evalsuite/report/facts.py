"""What stands on an axis or names a curve: facts of a run, by the names that people give them."""

import math
from collections.abc import Sequence

from evalsuite.artifacts.plan_fields import flat_fields
from evalsuite.artifacts.records import Record
from evalsuite.errors import UsageError
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.comparison_inputs import Entry

TRAIN_STEP, INPUT, MODEL = "train_step", "input", "model"
TAG = "tag."
COSTS = {
    "gpu_hours": "GPU-hours",
    "cpu_hours": "CPU-hours",
    "energy_joules": "energy, J",
    "money": "money",
}
"""What may stand on the axis of a record's cost, and its title."""
_TITLES = {TRAIN_STEP: "training step", "num_samples": "samples", "nfe": "evaluations per image"}


def number_of(entry: Entry, record: Record, name: str) -> float | None:
    """The number that stands on the axis `name` for a record; None when it has none.

    Raises:
        UsageError: a name that is the last part of several fields, or several results of a metric.
    """
    if name in METRICS:
        return _value_beside(entry, record, name)
    if name in COSTS:
        return as_number(record.cost.get(name))
    if name == "num_samples":
        return float(record.protocol.num_samples)
    if name == "nfe":
        return as_number(record.samples.get("nfe"))
    return as_number(entry.axes.get(name) or fact_of(entry, name))


def fact_of(entry: Entry, name: str) -> object:
    """What is known of an input under a name: a tag, its model, a field of its plan, an axis.

    Raises:
        UsageError: a name that is the last part of several fields.
    """
    if name.startswith(TAG):
        return entry.tags.get(name.removeprefix(TAG))
    if name == TRAIN_STEP:
        return entry.tags.get(TRAIN_STEP)
    if name == INPUT:
        return entry.name
    if name == MODEL:
        return entry.model
    fields = flat_fields(entry.plan) if entry.plan is not None else {}
    if name in fields:
        return fields[name]
    ends = [key for key in fields if key.endswith(f".{name}")]
    if len(ends) == 1:
        return fields[ends[0]]
    if name in entry.axes:
        return entry.axes[name]
    if ends:
        raise UsageError(f"{name} is the last part of {', '.join(ends)}: name one of them")
    return None


def word_of(entry: Entry, name: str) -> str | None:
    """What is known of an input under the name of a sweep's axis, as the sweep has it in words."""
    if name in entry.axes:
        return entry.axes[name]
    fact = fact_of(entry, name)
    return None if fact is None else str(fact)


def title_of(x: str) -> str:
    """What stands beside an axis."""
    if x in METRICS:
        return METRICS[x].display
    return COSTS.get(x) or _TITLES.get(x) or x.removeprefix(TAG).replace("_", " ")


def names_of_facts(entries: Sequence[Entry]) -> list[str]:
    """What may stand on an axis of these inputs."""
    fields = {key for e in entries if e.plan is not None for key in flat_fields(e.plan)}
    tags = {f"{TAG}{key}" for entry in entries for key in entry.tags}
    shown = {key.rpartition(".")[2] for key in fields}
    axes = {key for entry in entries for key in entry.axes}
    return [*fields, *shown, *axes, *tags, *COSTS, TRAIN_STEP, "num_samples", "nfe"]


def as_number(value: object) -> float | None:
    """A finite number, also one that is a text; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def natural_order(text: str) -> list[tuple[int, float, str]]:
    """Numbers by their size, then words."""
    words: list[tuple[int, float, str]] = []
    for word in text.replace(",", " ").split():
        value = as_number(word)
        words.append((1, 0.0, word) if value is None else (0, value, ""))
    return words


def _value_beside(entry: Entry, record: Record, metric: str) -> float | None:
    """The value of another metric that belongs to a record; None where there is none."""
    others = [r for r in entry.of_metric(metric) if _beside(r, record)]
    if len(others) > 1:
        listed = ", ".join(f"{r.protocol_id} against {r.reference}" for r in others)
        raise UsageError(
            f"{entry.where} has several results of {metric} for {record.display}"
            f" ({record.protocol_id}): {listed}: put {metric} on --y, where each has its own curve"
        )
    return others[0].value if others else None


def _beside(other: Record, record: Record) -> bool:
    """Whether two records are of the same samples, extractor and reference, where both have one.

    Likewise of one named protocol.
    """
    a, b = other.protocol, record.protocol
    if (a.num_samples, a.extractor_sha256) != (b.num_samples, b.extractor_sha256):
        return False
    if None not in {other.reference, record.reference} and other.reference != record.reference:
        return False
    names, theirs = set(other.protocol_names) - {None}, set(record.protocol_names) - {None}
    return not names or not theirs or bool(names & theirs)
