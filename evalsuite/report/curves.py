"""Curves: a metric against a setting, a cost or a training step; the data of every figure of them.

One curve is of one protocol and one number of samples. Runs that cannot be told apart by what is
asked are refused by name, so no line goes through numbers of two kinds.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from evalsuite.artifacts.plan_fields import differing_fields
from evalsuite.artifacts.records import Protocol, Record
from evalsuite.config import canonical_json
from evalsuite.errors import DataError, UsageError, nearest
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.comparison import Z_95, Sharing, sharing
from evalsuite.pipeline.comparison_inputs import Entry, metrics_of
from evalsuite.report.facts import COSTS, as_number, fact_of, names_of_facts, number_of, title_of
from evalsuite.report.summary import number
from evalsuite.report.tables import TextTable

COLUMNS = (
    "curve",
    "x",
    "y",
    "standard_error",
    "low",
    "high",
    "num_samples",
    "protocol",
    "protocol_id",
    "reference",
    "model",
    "plan_id",
    "run",
)
"""Of the data as CSV; `x` and `y` are named by what was asked."""


class Point(NamedTuple):
    """One value of a curve.

    Attributes:
        x: number on the axis.
        y: value of the metric.
        error: standard error of sampling; None without one.
        runs: which runs gave it; several replicates are their mean.
        record: of the first of them.
    """

    x: float
    y: float
    error: float | None
    runs: tuple[str, ...]
    record: Record

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval."""
        return None if self.error is None else Z_95 * self.error


class Curve(NamedTuple):
    """Points of one group and one protocol, by x."""

    label: str
    protocol: Protocol
    points: tuple[Point, ...]


class Curves(NamedTuple):
    """Everything that one figure shows.

    Attributes:
        x: what was asked to be on the axis.
        y: the metric.
        x_title: for people.
        y_title: for people, with N where all curves have the same.
        curves: at least one.
        left_out: a line for each input that has no place in the figure.
    """

    x: str
    y: str
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]
    left_out: tuple[str, ...]


class _Value(NamedTuple):
    """One record with its entry and its place on the axis."""

    entry: Entry
    record: Record
    x: float


def curves_of(
    entries: Sequence[Entry],
    x: str,
    y: str,
    group: str | None = None,
    num_samples: int | None = None,
    protocol: str | None = None,
) -> Curves:
    """Curves of the metric `y` against `x`.

    Args:
        entries: runs, or files of runs; `name` is the input that each came from.
        x: `train_step`, `tag.NAME`, a cost, `nfe`, `num_samples`, another metric, or a field of the
            plan, in full (`sampling.guidance_scale`) or by its last part.
        y: a metric.
        group: `tag.NAME`, `input`, `model` or a field: a curve for each value.
        num_samples: only records of so many samples.
        protocol: only records of this named protocol.

    Raises:
        UsageError: a metric that no input has, or two runs at one place of one curve.
        DataError: no input has a number for both axes.
    """
    known = metrics_of(entries)
    if y not in known:
        raise UsageError(f"--y {y}: no input has such a metric: {nearest(y, known)}")
    found: dict[tuple[str, bytes], list[_Value]] = {}
    left_out: list[str] = []
    for entry in entries:
        records = [r for r in entry.of_metric(y) if _is_asked(r, num_samples, protocol)]
        placed = [(r, number_of(entry, r, x)) for r in records if r.value is not None]
        values = [_Value(entry, r, at) for r, at in placed if at is not None]
        if not values:
            left_out.append(f"{entry.where}: {_why(y, x, records)}")
        for value in values:
            key = (_group_of(entry, group), _measured(value.record))
            found.setdefault(key, []).append(value)
    if not found:
        raise DataError(
            f"no input has a number for both {y} and {x}: {nearest(x, names_of_facts(entries))}"
            f" ({left_out[0] if left_out else 'no input'})"
        )
    labels = _labels(list(found), group, [values[0].record for values in found.values()])
    curves = [
        Curve(label, values[0].record.protocol, _points(values, x, group))
        for label, values in zip(labels, found.values(), strict=True)
    ]
    curves.sort(key=lambda curve: natural_order(curve.label))
    return Curves(x, y, title_of(x), _y_title(y, curves), tuple(curves), tuple(left_out))


def curve_rows(found: Curves) -> list[dict[str, Any]]:
    """One mapping for each point, with the keys of `columns_of`."""
    rows = []
    for curve, point in _each(found.curves):
        record, width = point.record, point.half_width
        row = {
            "curve": curve.label,
            "x": int(point.x) if point.x.is_integer() else point.x,
            "y": point.y,
            "standard_error": point.error,
            "low": None if width is None else point.y - width,
            "high": None if width is None else point.y + width,
            "num_samples": record.protocol.num_samples,
            "protocol": record.protocol_name,
            "protocol_id": record.protocol_id,
            "reference": record.reference,
            "model": record.samples.get("model"),
            "plan_id": record.samples.get("plan_id"),
            "run": "; ".join(point.runs),
        }
        rows.append(dict(zip(columns_of(found), row.values(), strict=True)))
    return rows


def columns_of(found: Curves) -> list[str]:
    """`COLUMNS`, the two axes under their names."""
    y = found.y if found.y != found.x else f"{found.y}_y"
    named = {"x": found.x if found.x not in COLUMNS else f"{found.x}_x", "y": y}
    return [named.get(column, column) for column in COLUMNS]


def are_wide(found: Curves) -> tuple[bool, bool]:
    """Whether each axis is read better in powers: values over more than a decade, costs for x."""
    points = [point for _, point in _each(found.curves)]
    x, y = [point.x for point in points], [point.y for point in points]
    return found.x in COSTS and is_wide(x), is_wide(y)


def is_wide(values: Sequence[float]) -> bool:
    """Whether positive values spread over more than a decade."""
    return min(values) > 0 and max(values) / min(values) > 10


def curves_table(found: Curves) -> TextTable:
    """The points as a table for people."""
    cells = [
        (
            curve.label,
            f"{point.x:.10g}",
            number(point.y),
            "" if point.error is None else number(point.error),
        )
        for curve, point in _each(found.curves)
    ]
    headings = ("curve", found.x_title, found.y_title, "± error")
    caption = f"{found.y_title} against {found.x_title}; ± is the standard error of sampling"
    return TextTable(caption, headings, cells, 1, [f"left out: {line}" for line in found.left_out])


def _each(curves: Iterable[Curve]) -> Iterable[tuple[Curve, Point]]:
    return ((curve, point) for curve in curves for point in curve.points)


def _is_asked(record: Record, num_samples: int | None, protocol: str | None) -> bool:
    right_count = num_samples in {None, record.protocol.num_samples}
    return right_count and (protocol is None or protocol in record.protocol_names)


def _measured(record: Record) -> bytes:
    """What is equal along a curve: all of the protocol but the backend, because the two agree."""
    return canonical_json(record.protocol.model_dump(mode="json", exclude={"backend"}))


def _group_of(entry: Entry, group: str | None) -> str:
    if group is None:
        return ""
    value = fact_of(entry, group)
    return "unknown" if value is None else str(value)


def _labels(
    keys: Sequence[tuple[str, bytes]], group: str | None, records: Sequence[Record]
) -> list[str]:
    """Names of curves: the group's value, and as much of the protocol as tells them apart."""
    names = [record.protocol_name or record.protocol_id for record in records]
    counts = [f"N = {record.protocol.num_samples:,}" for record in records]
    parts = [[_told(group, value)] if value else [] for value, _ in keys]
    for texts in (names, counts):
        if len(set(texts)) > 1:
            parts = [[*words, text] for words, text in zip(parts, texts, strict=True)]
    if len({tuple(words) for words in parts}) < len(parts):
        ids = [record.protocol_id for record in records]
        parts = [[*words, text] for words, text in zip(parts, ids, strict=True)]
    labels = [", ".join(words) for words in parts]
    return [label or record.display for label, record in zip(labels, records, strict=True)]


def _told(group: str | None, value: str) -> str:
    """A group's value; with the group's name where the value alone does not say what it is."""
    says_nothing = as_number(value) is not None or value in {"True", "False", "unknown"}
    return f"{title_of(group)} {value}" if group and says_nothing else value


def _points(values: Sequence[_Value], x: str, group: str | None) -> tuple[Point, ...]:
    ordered = sorted(values, key=lambda one: (one.x, one.entry.where))
    points = []
    for at, alike in itertools.groupby(ordered, key=lambda one: one.x):
        points.append(_point(at, _distinct(list(alike)), x, group))
    return tuple(points)


def _distinct(values: Sequence[_Value]) -> list[_Value]:
    """Without runs that were given twice, as by their sweep too."""
    found: dict[object, _Value] = {}
    for value in values:
        plan = value.entry.plan
        found.setdefault(plan.plan_id if plan else value.entry.where, value)
    return list(found.values())


def _point(at: float, values: Sequence[_Value], x: str, group: str | None) -> Point:
    """The value at one place; of replicates, which share no sample, the mean."""
    first = values[0]
    for a, b in itertools.combinations(values, 2):
        _check_replicates(a, b, x, at, group)
    numbers = [v.record.value for v in values if v.record.value is not None]
    errors = [v.record.standard_error for v in values]
    known = [error for error in errors if error is not None]
    error = math.hypot(*known) / len(values) if len(known) == len(values) else None
    runs = tuple(value.entry.where for value in values)
    return Point(at, math.fsum(numbers) / len(numbers), error, runs, first.record)


def _check_replicates(a: _Value, b: _Value, x: str, at: float, group: str | None) -> None:
    """Raise UsageError unless two values of one place are of one plan but for disjoint seeds."""
    where = f"{a.entry.where} and {b.entry.where} are both at {x} = {at:g}"
    told = "" if group is None else f" in {group} {_group_of(a.entry, group)}"
    plans = a.entry.plan, b.entry.plan
    if plans[0] is None or plans[1] is None:
        raise UsageError(f"{where}{told}, and one is no run: leave one out, or give --group input")
    differing = differing_fields(plans[0], plans[1])
    fields = sorted(differing.keys() - {"first_seed"})
    if fields:
        raise UsageError(
            f"{where}{told} and differ in {', '.join(fields)}: give --group {fields[0]}, tag.NAME"
            " or input"
        )
    count = a.record.protocol.num_samples
    if sharing(plans[0], plans[1], count, count) is not Sharing.DISJOINT:
        raise UsageError(f"{where}{told}, and their ranges of seeds overlap: leave one out")


def _why(y: str, x: str, records: Sequence[Record]) -> str:
    if not records:
        return f"no {y} that was asked for"
    if all(record.value is None for record in records):
        return f"its {y} is undefined"
    return f"no number for {x}"


def _y_title(y: str, curves: Sequence[Curve]) -> str:
    displays = {point.record.display for _, point in _each(curves)}
    if len(displays) == 1:
        return displays.pop()
    return METRICS[y].display if y in METRICS else y


def shared_facts(found: Curves) -> Mapping[str, str]:
    """What all curves have in common, for a caption: protocol, reference, model, N."""
    records = [point.record for _, point in _each(found.curves)]
    facts = {
        "model": {str(r.samples.get("model") or "") for r in records},
        "protocol": {r.protocol_name or r.protocol_id for r in records},
        "reference": {r.reference or "" for r in records},
        "samples": {f"{r.protocol.num_samples:,}" for r in records},
    }
    alike = {name: values for name, values in facts.items() if len(values) == 1}
    return {name: one for name, values in alike.items() if (one := values.pop())}


def natural_order(text: str) -> list[tuple[int, float, str]]:
    """Numbers by their size, then words."""
    words: list[tuple[int, float, str]] = []
    for word in text.replace(",", " ").split():
        value = as_number(word)
        words.append((1, 0.0, word) if value is None else (0, value, ""))
    return words
