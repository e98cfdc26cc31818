"""Curves: a metric against a setting, a cost or a training step; the data of every figure of them.

One curve is of one protocol and one number of samples. Runs that cannot be told apart by what is
asked are refused by name, so no line goes through numbers of two kinds.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evalsuite.artifacts.plan_fields import differing_fields
from evalsuite.artifacts.records import Protocol, Record
from evalsuite.config import canonical_json
from evalsuite.errors import DataError, UsageError, nearest
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.comparison import Z_95, Sharing, sharing
from evalsuite.pipeline.comparison_inputs import Entry, metrics_of
from evalsuite.report.facts import (
    COSTS,
    as_number,
    fact_of,
    names_of_facts,
    natural_order,
    number_of,
    title_of,
    word_of,
)
from evalsuite.report.rankings import (
    EXTRAPOLATED,
    RANKED,
    Ranking,
    Read,
    Reading,
    as_ranked,
    as_recorded,
    metric_of,
    plain_notes,
    words_along,
)

_BAND = "Bands are 95 % intervals of sampling, 1.96 standard errors to either side"
_BAND_OF_LIMITS = (
    "those of extrapolated values are of the difference from the leader, by which the sweep drops"
)
_UNRANKED = "no rung ranks it"


class Point(NamedTuple):
    """One value of a curve.

    Attributes:
        x: number on the axis; where that has words, which of them.
        y: value of the metric.
        error: standard error of sampling; None without one.
        half_width: of the 95 % interval; of an extrapolated value, of its difference from the
            leader.
        extrapolated: whether it is the value extrapolated to infinite N.
        leads: whether it is the leader's, from which the differences are.
        runs: which runs gave it; several replicates are their mean.
        record: of the first of them.
        notes: what must be known of the number.
    """

    x: float
    y: float
    error: float | None
    half_width: float | None
    extrapolated: bool
    leads: bool
    runs: tuple[str, ...]
    record: Record
    notes: tuple[str, ...]


class Curve(NamedTuple):
    """Points of one group and one protocol, by x."""

    label: str
    protocol: Protocol
    points: tuple[Point, ...]


class Curves(NamedTuple):
    """Everything that one figure shows.

    Attributes:
        x: what was asked to be on the axis.
        y: the metric, or `ranked_by`.
        x_title: for people.
        y_title: for people, with N where all curves have the same.
        curves: at least one.
        left_out: a line for each input that has no place in the figure.
        notes: what else must be known of the numbers.
        words: what stands along x where it is a sweep's axis of more than numbers; else empty.
    """

    x: str
    y: str
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    words: tuple[str, ...] = ()

    def place(self, x: float) -> float | str:
        """What stands at a point of the x axis."""
        return self.words[int(x)] if self.words else x

    @property
    def extrapolates(self) -> bool:
        """Whether any of its values is extrapolated."""
        return any(point.extrapolated for _, point in each_point(self.curves))

    @property
    def lines(self) -> list[str]:
        """All that is to be said below it."""
        return [*self.notes, *(f"left out: {line}" for line in self.left_out)]

    @property
    def band(self) -> str:
        """What its bands are, in words."""
        return f"{_BAND}; {_BAND_OF_LIMITS}" if self.extrapolates else _BAND


class _Value(NamedTuple):
    """One record with its entry, its place on the axis, what is drawn of it and must be known."""

    entry: Entry
    record: Record
    x: float
    read: Reading
    notes: tuple[str, ...]


def curves_of(
    entries: Sequence[Entry],
    x: str,
    y: str,
    group: str | None = None,
    num_samples: int | None = None,
    protocol: str | None = None,
    rankings: Sequence[Ranking] = (),
) -> Curves:
    """Curves of the metric `y` against `x`.

    Args:
        entries: runs, or files of runs; `name` is the input that each came from.
        x: `train_step`, `tag.NAME`, a cost, `nfe`, `num_samples`, another metric, or a field of the
            plan, in full (`sampling.guidance_scale`) or by its last part; or an axis of the sweeps,
            along which words stand in the sweep's order.
        y: a metric; or `ranked_by`, which is what the rungs of sweeps rank by.
        group: `tag.NAME`, `input`, `model` or a field: a curve for each value.
        num_samples: only records of so many samples.
        protocol: only records of this named protocol.
        rankings: of the sweeps among the entries.

    Raises:
        UsageError: a metric that no input has, or two runs at one place of one curve.
        DataError: no input has a number for both axes.
    """
    metric, read = _asked(entries, y, rankings)
    words = words_along(x, rankings)
    found: dict[tuple[str, bytes], list[_Value]] = {}
    left_out: dict[str, str] = {}
    for entry in entries:
        records = [r for r in entry.of_metric(metric) if _is_asked(r, num_samples, protocol)]
        drawn = [(r, n) for r in records if (n := read(entry, r)) is not None]
        values = [
            _Value(entry, r, at, n, plain_notes(rankings, [_drawn(entry, r, y)]))
            for r, n in drawn
            if (at := _place_of(entry, r, x, words)) is not None
        ]
        if not values:
            left_out[entry.where] = _why(entry, y, x, records, read)
        for value in values:
            key = (_group_of(entry, group), measured(value.record))
            found.setdefault(key, []).append(value)
    if not found:
        raise DataError(_nothing(entries, x, y, metric, left_out))
    labels = _labels(list(found), group, [values[0] for values in found.values()])
    curves = [
        Curve(label, values[0].record.protocol, _points(values, x, group, words))
        for label, values in zip(labels, found.values(), strict=True)
    ]
    curves.sort(key=lambda curve: natural_order(curve.label))
    plain = {_drawn(v.entry, v.record, y) for values in found.values() for v in values}
    notes = plain_notes(rankings, plain)
    title = _ranked_title(rankings, metric, curves) if y == RANKED else _y_title(metric, curves)
    lines = tuple(f"{where}: {why}" for where, why in left_out.items())
    return Curves(x, y, title_of(x), title, tuple(curves), lines, notes, words)


def _drawn(entry: Entry, record: Record, y: str) -> tuple[str, str, int]:
    return entry.name, y, record.protocol.num_samples


def _place_of(entry: Entry, record: Record, x: str, words: Sequence[str]) -> float | None:
    """Where a record stands on the axis: a number, or which of the words; None if nowhere."""
    if not words:
        return number_of(entry, record, x)
    word = word_of(entry, x)
    return float(words.index(word)) if word in words else None


def _asked(entries: Sequence[Entry], y: str, rankings: Sequence[Ranking]) -> tuple[str, Read]:
    """The metric of the records that `y` asks for, and what is drawn of each."""
    if y == RANKED:
        return metric_of(rankings), as_ranked(rankings)
    known = metrics_of(entries)
    if y not in known:
        raise UsageError(f"--y {y}: no input has such a metric: {nearest(y, known)}")
    return y, as_recorded


def are_wide(found: Curves) -> tuple[bool, bool]:
    """Whether each axis is read better in powers: values over more than a decade, costs for x."""
    points = [point for _, point in each_point(found.curves)]
    x, y = [point.x for point in points], [point.y for point in points]
    return found.x in COSTS and is_wide(x), is_wide(y)


def is_wide(values: Sequence[float]) -> bool:
    """Whether positive values spread over more than a decade."""
    return min(values) > 0 and max(values) / min(values) > 10


def each_point(curves: Iterable[Curve]) -> Iterable[tuple[Curve, Point]]:
    """Every point with the curve that it is on."""
    return ((curve, point) for curve in curves for point in curve.points)


def _is_asked(record: Record, num_samples: int | None, protocol: str | None) -> bool:
    right_count = num_samples in {None, record.protocol.num_samples}
    return right_count and (protocol is None or protocol in record.protocol_names)


def measured(record: Record) -> bytes:
    """What is equal along a curve: all of the protocol but the backend, because the two agree."""
    return canonical_json(record.protocol.model_dump(mode="json", exclude={"backend"}))


def _group_of(entry: Entry, group: str | None) -> str:
    if group is None:
        return ""
    value = fact_of(entry, group)
    return "unknown" if value is None else str(value)


def _labels(
    keys: Sequence[tuple[str, bytes]], group: str | None, values: Sequence[_Value]
) -> list[str]:
    """Names of curves: the group's value, as much of the protocol as tells them apart, the kind."""
    records = [value.record for value in values]
    names = [record.protocol_name or record.protocol_id for record in records]
    counts = [f"N = {record.protocol.num_samples:,}" for record in records]
    parts = [[_told(group, value)] if value else [] for value, _ in keys]
    for texts in (names, counts):
        if len(set(texts)) > 1:
            parts = [[*words, text] for words, text in zip(parts, texts, strict=True)]
    if len({tuple(words) for words in parts}) < len(parts):
        ids = [record.protocol_id for record in records]
        parts = [[*words, text] for words, text in zip(parts, ids, strict=True)]
    for words, value in zip(parts, values, strict=True):
        words += [EXTRAPOLATED] if value.read.extrapolated else []
    labels = [", ".join(words) for words in parts]
    return [label or record.display for label, record in zip(labels, records, strict=True)]


def _told(group: str | None, value: str) -> str:
    """A group's value; with the group's name where the value alone does not say what it is."""
    says_nothing = as_number(value) is not None or value in {"True", "False", "unknown"}
    return f"{title_of(group)} {value}" if group and says_nothing else value


def _points(
    values: Sequence[_Value], x: str, group: str | None, words: Sequence[str]
) -> tuple[Point, ...]:
    ordered = sorted(values, key=lambda one: (one.x, one.entry.where))
    points = []
    for at, alike in itertools.groupby(ordered, key=lambda one: one.x):
        place = f"{x} = {words[int(at)] if words else f'{at:g}'}"
        points.append(_point(at, _distinct(list(alike)), place, group))
    return tuple(points)


def _distinct(values: Sequence[_Value]) -> list[_Value]:
    """Without runs that were given twice, as by their sweep too."""
    found: dict[object, _Value] = {}
    for value in values:
        plan = value.entry.plan
        found.setdefault(plan.plan_id if plan else value.entry.where, value)
    return list(found.values())


def _point(at: float, values: Sequence[_Value], place: str, group: str | None) -> Point:
    """The value at one place; of replicates, which share no sample, the mean."""
    first = values[0]
    for a, b in itertools.combinations(values, 2):
        _check_replicates(a, b, place, group)
    runs = tuple(value.entry.where for value in values)
    if len(values) == 1:
        return Point(at, *first.read, runs, first.record, first.notes)
    mean = math.fsum(value.read.value for value in values) / len(values)
    known = [value.read.error for value in values if value.read.error is not None]
    error = math.hypot(*known) / len(values) if len(known) == len(values) else None
    half_width = None if error is None else Z_95 * error
    read = Reading(mean, error, half_width, first.read.extrapolated)
    notes = tuple(dict.fromkeys(note for value in values for note in value.notes))
    return Point(at, *read, runs, first.record, notes)


def _check_replicates(a: _Value, b: _Value, place: str, group: str | None) -> None:
    """Raise UsageError unless two values of one place are of one plan but for disjoint seeds."""
    where = f"{a.entry.where} and {b.entry.where} are both at {place}"
    told = "" if group is None else f" in {group} {_group_of(a.entry, group)}"
    plans = a.entry.plan, b.entry.plan
    if plans[0] is None or plans[1] is None:
        raise UsageError(f"{where}{told}, and one is no run: leave one out, or give --group input")
    differing = differing_fields(plans[0], plans[1])
    fields = sorted(differing.keys() - {"first_seed"})
    if fields:
        fields = _differing_axes(a.entry, b.entry) or fields
        raise UsageError(
            f"{where}{told} and differ in {', '.join(fields)}: give --group {fields[0]}, tag.NAME"
            " or input"
        )
    count = a.record.protocol.num_samples
    if sharing(plans[0], plans[1], count, count) is not Sharing.DISJOINT:
        raise UsageError(f"{where}{told}, and their ranges of seeds overlap: leave one out")


def _differing_axes(a: Entry, b: Entry) -> list[str]:
    """Axes of the sweep that both came from along which they differ."""
    return [key for key in a.axes if a.name == b.name and a.axes[key] != b.axes.get(key)]


def _why(entry: Entry, y: str, x: str, records: Sequence[Record], read: Read) -> str:
    if not records:
        return _not_asked(y)
    if all(read(entry, record) is None for record in records):
        return _UNRANKED if y == RANKED else f"its {y} is undefined"
    return f"no number for {x}"


def _not_asked(y: str) -> str:
    return f"no {y} that was asked for"


def _nothing(
    entries: Sequence[Entry], x: str, y: str, metric: str, left_out: Mapping[str, str]
) -> str:
    """The error where no input has a place, by what the inputs lack."""
    lacking = set(left_out.values())
    if lacking == {_not_asked(y)}:
        return f"no input has a {metric} of the --num-samples and --protocol that are asked for"
    if y == RANKED and lacking in ({_UNRANKED}, {_UNRANKED, _not_asked(y)}):
        return f"no rung ranks these: --y {metric} draws the plain metric"
    first = next((f"{where}: {why}" for where, why in left_out.items()), "no input")
    known = names_of_facts(entries)
    hint = "it has words, which --group takes" if x in known else nearest(x, known)
    return f"no input has a number for both {y} and {x}: {hint} ({first})"


def _y_title(y: str, curves: Sequence[Curve]) -> str:
    displays = {point.record.display for _, point in each_point(curves)}
    if len(displays) == 1:
        return displays.pop()
    return METRICS[y].display if y in METRICS else y


def _ranked_title(rankings: Sequence[Ranking], metric: str, curves: Sequence[Curve]) -> str:
    """The sweeps' own name of the metric, and what they rank by."""
    kinds = {point.extrapolated for _, point in each_point(curves)}
    if kinds == {False}:
        return _y_title(metric, curves)
    display = rankings[0].display
    return f"{display}, {EXTRAPOLATED}" if kinds == {True} else f"{display}, as its rungs rank"


def shared_facts(found: Curves) -> Mapping[str, str]:
    """What all curves have in common, for a caption: protocol, reference, model, N."""
    records = [point.record for _, point in each_point(found.curves)]
    facts = {
        "model": {str(r.samples.get("model") or "") for r in records},
        "protocol": {r.protocol_name or r.protocol_id for r in records},
        "reference": {r.reference or "" for r in records},
        "samples": {f"{r.protocol.num_samples:,}" for r in records},
    }
    alike = {name: values for name, values in facts.items() if len(values) == 1}
    return {name: one for name, values in alike.items() if (one := values.pop())}
