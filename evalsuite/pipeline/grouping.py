"""Methods with several training seeds each: means, the spread between seeds, Welch's interval."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit

from evalsuite.artifacts.plan_fields import differing_fields, flat_fields
from evalsuite.artifacts.records import Record
from evalsuite.errors import DataError, UsageError, nearest
from evalsuite.pipeline.comparability import Comparability
from evalsuite.pipeline.comparison import Sharing, check_used, compare_records, sharing
from evalsuite.pipeline.comparison_inputs import Entry, meetings, metrics_of
from evalsuite.pipeline.comparison_words import caveat_of, comparability_payload

_OF_TRAINING = frozenset({"weights_sha256", "guide.weights_sha256", "first_seed"})
"""Fields in which runs of one method may differ."""


class Welch(NamedTuple):
    """Difference of two means with unequal variances.

    Attributes:
        difference: mean(b) - mean(a).
        half_width: of the 95 % interval; None when a variance cannot be estimated.
        degrees_of_freedom: by Welch and Satterthwaite; None likewise.
    """

    difference: float
    half_width: float | None
    degrees_of_freedom: float | None


class GroupValue(NamedTuple):
    """One metric of one method.

    Attributes:
        name: value of the key.
        seed_values: one for each training seed, the mean of its runs.
        num_runs: runs behind them.
    """

    name: str
    seed_values: tuple[float, ...]
    num_runs: int

    @property
    def mean(self) -> float:
        """Over training seeds."""
        return statistics.fmean(self.seed_values)

    @property
    def spread(self) -> float | None:
        """Standard deviation between training seeds; None of a single one."""
        return statistics.stdev(self.seed_values) if len(self.seed_values) > 1 else None


class GroupRow(NamedTuple):
    """One metric of all methods, each against the first."""

    metric: str
    display: str
    num_samples: int
    groups: tuple[GroupValue, ...]
    intervals: tuple[Welch, ...]
    """Of the second group and later ones against the first; empty when refused."""
    comparability: Comparability


class Grouping(NamedTuple):
    """Everything that was found of groups."""

    key: str
    members: Mapping[str, tuple[Entry, ...]]
    rows: tuple[GroupRow, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def welch(a: Sequence[float], b: Sequence[float]) -> Welch:
    """Welch's 95 % interval of mean(b) - mean(a).

    Source: Welch 1947, "The generalization of Student's problem"; Satterthwaite 1946.

    Raises:
        ValueError: a sample without values.
    """
    difference = statistics.fmean(b) - statistics.fmean(a)
    if min(len(a), len(b)) < 2:
        return Welch(difference, None, None)
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    total = sum(parts)
    if total == 0:
        return Welch(difference, None, None)
    squares = sum(p * p / (len(v) - 1) for p, v in zip(parts, (a, b), strict=True))
    freedom = total * total / squares
    return Welch(difference, float(stdtrit(freedom, 0.975)) * math.sqrt(total), freedom)


def group_by(
    entries: Sequence[Entry], key: str, against: Entry | None, allowed: Collection[str] = ()
) -> Grouping:
    """Group runs into methods and compare their means with the first, or with that of `against`.

    Args:
        entries: runs, or files of runs.
        key: a tag, `model`, or a plan's field such as `sampling.guidance_scale`.
        against: an input of the group that the others are compared with.
        allowed: fields in which records may differ.

    Raises:
        DataError: an input without the key, or no metric that all have.
        UsageError: a single group, runs of one group that differ in more than training, or
            `allowed` names a field in which nothing differs.
    """
    members = _members(entries, key, against)
    ordered = [entry for group in members.values() for entry in group]
    rows: list[GroupRow] = []
    missing: list[str] = []
    for metric in metrics_of(ordered):
        found = _rows_of(metric, ordered, members, allowed)
        rows += found
        if not found:
            missing.append(f"not all inputs have a {metric} that can be grouped")
    if not rows:
        raise DataError("the inputs have no metric in common: score them with equal --metrics")
    check_used(allowed, [row.comparability for row in rows])
    return Grouping(key, members, tuple(rows), tuple(missing), tuple(_notes(members)))


def _members(
    entries: Sequence[Entry], key: str, against: Entry | None
) -> dict[str, tuple[Entry, ...]]:
    found: dict[str, list[Entry]] = {}
    first = [] if against is None else [against]
    for entry in [*first, *(e for e in entries if against is None or e.name != against.name)]:
        found.setdefault(value_of(entry, key), []).append(entry)
    if len(found) < 2:
        raise UsageError(f"--group-by {key}: all inputs are in one group, {next(iter(found))!r}")
    for name, group in found.items():
        _check_one_method(name, key, group)
    return {name: tuple(group) for name, group in found.items()}


def value_of(entry: Entry, key: str) -> str:
    """An input's value of a key: of a tag, else of `model`, else of a field of its plan.

    Raises:
        DataError: it has none.
    """
    if key in entry.tags:
        return entry.tags[key]
    if key == "model" and entry.model is not None:
        return entry.model
    fields = flat_fields(entry.plan) if entry.plan is not None else {}
    if key in fields:
        return str(fields[key])
    known = [*entry.tags, *(["model"] if entry.model else []), *fields]
    raise DataError(
        f"--group-by {key}: {entry.where} has no such tag or field; {nearest(key, known)}"
    )


def _check_one_method(name: str, key: str, group: Sequence[Entry]) -> None:
    """Runs of one method differ in their weights and seeds alone."""
    for other in group:
        first = group[0]
        if first.plan is None or other.plan is None:
            lacking = first if first.plan is None else other
            raise DataError(f"{lacking.where} has no plan, so its training seed is unknown")
        mixed = differing_fields(first.plan, other.plan).keys() - _OF_TRAINING - {key}
        if mixed:
            raise UsageError(
                f"--group-by {key}: {first.where} and {other.where} are both in {name!r} but differ"
                f" in {', '.join(sorted(mixed))}: a group may differ in weights and seeds alone"
            )


def _rows_of(
    metric: str,
    ordered: Sequence[Entry],
    members: Mapping[str, tuple[Entry, ...]],
    allowed: Collection[str],
) -> list[GroupRow]:
    """One row for each way in which all inputs measured a metric."""
    first = ordered[0]
    of_others = {e.name: meetings(first, e, metric, ordered) for e in ordered[1:]}
    rows = []
    for start in first.of_metric(metric):
        chosen = {name: one for name, found in of_others.items() for one in found if one.a is start}
        if len(chosen) < len(of_others):
            continue
        related = [
            compare_records(first, e, chosen[e.name], allowed).comparability for e in ordered[1:]
        ]
        records = {first.name: start, **{name: one.b for name, one in chosen.items()}}
        if any(record.value is None for record in records.values()):
            continue
        merged = _merged(related, allowed)
        values = tuple(_value(name, group, records) for name, group in members.items())
        intervals = () if merged.refusals else _intervals(values)
        count = start.protocol.num_samples
        rows.append(GroupRow(metric, start.display, count, values, intervals, merged))
    return rows


def _merged(related: Sequence[Comparability], allowed: Collection[str]) -> Comparability:
    """Relations of all inputs to the first, but for seeds, which may overlap: see `_notes`."""
    found = {
        (relation.field, relation.kind): relation
        for one in related
        for relation in one.relations
        if relation.field != "seeds"
    }
    return Comparability(tuple(found.values()), frozenset(allowed))


def _value(name: str, group: Sequence[Entry], records: Mapping[str, Record]) -> GroupValue:
    seeds: dict[str, list[float]] = {}
    for entry in group:
        value = records[entry.name].value
        assert entry.plan is not None
        assert value is not None
        seeds.setdefault(_training_of(entry), []).append(value)
    return GroupValue(name, tuple(map(statistics.fmean, seeds.values())), len(group))


def _training_of(entry: Entry) -> str:
    assert entry.plan is not None
    guide = entry.plan.guide.weights_sha256 if entry.plan.guide else ""
    return entry.plan.weights_sha256 + guide


def _intervals(values: Sequence[GroupValue]) -> tuple[Welch, ...]:
    return tuple(welch(values[0].seed_values, other.seed_values) for other in values[1:])


def _notes(members: Mapping[str, tuple[Entry, ...]]) -> list[str]:
    notes = []
    most = max(
        r.protocol.num_samples for group in members.values() for e in group for r in e.records
    )
    shared = [
        name
        for name, group in members.items()
        if len(group) > 1
        and any(
            sharing(group[0].plan, e.plan, most, most) is not Sharing.DISJOINT for e in group[1:]
        )
    ]
    if shared:
        notes.append(
            f"runs of {', '.join(shared)} share noise: the spread is that of training"
            " alone, and the sampling error that they share is not in the interval"
        )
    return notes


def group_statement(row: GroupRow, place: int) -> str:
    """One sentence on group `place` (from 1) against the first."""
    first, other = row.groups[0], row.groups[place]
    said = f"{row.display}: {first.name} and {other.name}"
    if row.comparability.refusals:
        return f"{said} are not compared: {'; '.join(map(caveat_of, row.comparability.refusals))}"
    found = row.intervals[place - 1]
    counts = f"{len(first.seed_values)} and {len(other.seed_values)} training seeds"
    said = f"{said} differ by {found.difference:+.4f}"
    if found.half_width is None:
        return (
            f"{said} ({counts}); no interval: it needs two training seeds of each that differ, so"
            " this is not evidence for a method"
        )
    text = (
        f"{said} ± {found.half_width:.4f} (95 %, Welch, {found.degrees_of_freedom:.1f} degrees of"
        f" freedom; {counts}; N = {row.num_samples:,})"
    )
    if not row.comparability.ranked:
        return text
    if abs(found.difference) <= found.half_width:
        return f"{text}; the interval holds 0: the methods are not shown to differ"
    return f"{text}; the interval does not hold 0: training seeds alone do not explain it"


def payload_of_groups(found: Grouping) -> dict[str, Any]:
    """What `--json` writes of a grouping."""
    return {
        "group_by": found.key,
        "groups": {name: [e.where for e in group] for name, group in found.members.items()},
        "rows": [_row_payload(row) for row in found.rows],
        "missing": list(found.missing),
        "notes": list(found.notes),
    }


def _row_payload(row: GroupRow) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "display": row.display,
        "num_samples": row.num_samples,
        "groups": [
            {
                "name": group.name,
                "mean": group.mean,
                "spread": group.spread,
                "seed_values": list(group.seed_values),
                "num_runs": group.num_runs,
            }
            for group in row.groups
        ],
        "against_first": [
            {"name": group.name, **interval._asdict()}
            for group, interval in zip(row.groups[1:], row.intervals, strict=False)
        ],
        "statements": [group_statement(row, place) for place in range(1, len(row.groups))],
        **comparability_payload(row.comparability),
    }
