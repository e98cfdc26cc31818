"""Differences of one metric between two inputs, with the interval that their samples allow.

A paired difference has the plain error of influence values, where a record's own is taken from
halves: what halves take back cancels in a difference, and in simulation 31 of 32 cells cover 93.2
to 98.2 % (`docs/uncertainty-simulation.md`).

Legend: N samples.
"""

import io
import math
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import Plan
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.metrics.intervals import paired_standard_error
from evalsuite.pipeline.comparability import (
    SEEDS,
    Comparability,
    Kind,
    Relation,
    comparability,
)
from evalsuite.pipeline.comparison_inputs import Entry, Meeting, meetings, metrics_of, side_of
from evalsuite.pipeline.interval_coverage import interval_note, is_interval_note
from evalsuite.pipeline.scoring import strata_of
from evalsuite.seeding import labels_of

Z_95 = 1.96
_SAME_SAMPLES = ("numerics_version", "labels", "classes", "num_classes", "size")


class Sharing(StrEnum):
    """What the samples of two inputs have in common."""

    PAIRED = "paired"
    """Sample i of both has the same seed and label."""
    NOISE = "noise"
    """Sample i of both has the same seed, but not the same label, size or number of samples."""
    OVERLAP = "overlap"
    """Some seeds are in both, at other indices."""
    DISJOINT = "disjoint"
    UNKNOWN = "unknown"
    """At least one was not made by a plan."""


class Difference(NamedTuple):
    """metric(b) - metric(a) and its error.

    Attributes:
        value: the difference.
        standard_error: None where none can be given; `why` says why.
        paired: whether the error is that of pairs.
        why: clauses on what the interval rests on, or why there is none.
    """

    value: float
    standard_error: float | None
    paired: bool
    why: tuple[str, ...]

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval."""
        return None if self.standard_error is None else Z_95 * self.standard_error

    @property
    def holds_zero(self) -> bool | None:
        """Whether the interval holds 0; None without an interval."""
        return None if self.half_width is None else abs(self.value) <= self.half_width


class Row(NamedTuple):
    """One metric of two inputs.

    Attributes:
        a: the input that others are compared with.
        b: another input.
        meeting: their two records.
        comparability: what their protocols and seeds say.
        sharing: what their samples have in common.
        difference: None when it is refused, or a value is undefined.
    """

    a: Entry
    b: Entry
    meeting: Meeting
    comparability: Comparability
    sharing: Sharing
    difference: Difference | None

    @property
    def metric(self) -> str:
        """Name in the registry."""
        return self.meeting.a.metric


class Comparison(NamedTuple):
    """Everything that was found.

    Attributes:
        entries: the inputs.
        base: the one that the others are compared with.
        rows: by input, then by metric.
        missing: lines about metrics that only one of two inputs has.
    """

    entries: tuple[Entry, ...]
    base: Entry
    rows: tuple[Row, ...]
    missing: tuple[str, ...]


def compare(entries: Sequence[Entry], base: Entry, allowed: Collection[str] = ()) -> Comparison:
    """Compare every other input with `base`, metric by metric.

    Raises:
        DataError: no metric is in two inputs.
        UsageError: `allowed` names a field in which no two records differ.
        CorruptionError: influence values that do not belong to their record.
    """
    rows: list[Row] = []
    missing: list[str] = []
    for other in entries:
        if other.name == base.name:
            continue
        for metric in metrics_of((base, other)):
            found = meetings(base, other, metric, entries)
            rows += [compare_records(base, other, one, allowed) for one in found]
            if not found:
                lacking = other if base.of_metric(metric) else base
                missing.append(f"{lacking.name} has no {metric}")
    if not rows:
        raise DataError("the inputs have no metric in common: score them with equal --metrics")
    check_used(allowed, [row.comparability for row in rows])
    return Comparison(tuple(entries), base, tuple(rows), tuple(dict.fromkeys(missing)))


def check_used(allowed: Collection[str], found: Sequence[Comparability]) -> None:
    """Raise UsageError when a field is allowed in which nothing differs."""
    differing = {relation.field for one in found for relation in one.caveats}
    for field in sorted(set(allowed) - differing):
        raise UsageError(f"--allow {field}: no two records are known to differ in it")


def compare_records(a: Entry, b: Entry, meeting: Meeting, allowed: Collection[str] = ()) -> Row:
    """One metric of two inputs: related, and subtracted unless that is refused.

    Raises:
        CorruptionError: influence values that do not belong to their record.
    """
    counts = (meeting.a.protocol.num_samples, meeting.b.protocol.num_samples)
    shared = sharing(a.plan, b.plan, *counts)
    found = comparability(side_of(meeting.a, a.plan), side_of(meeting.b, b.plan), allowed)
    if shared is Sharing.OVERLAP:
        assert a.plan is not None
        assert b.plan is not None
        overlap = _overlap(a.plan, b.plan, *counts)
        found = found._replace(relations=(*found.relations, overlap))
    known = meeting.a.value is not None and meeting.b.value is not None
    difference = None
    if known and not found.refusals:
        difference = _difference(a, b, meeting, shared)
    return Row(a, b, meeting, found, shared, difference)


def sharing(a: Plan | None, b: Plan | None, num_a: int, num_b: int) -> Sharing:
    """What the first samples of two plans have in common."""
    if a is None or b is None:
        return Sharing.UNKNOWN
    if a.first_seed != b.first_seed:
        apart = a.first_seed + num_a <= b.first_seed or b.first_seed + num_b <= a.first_seed
        return Sharing.DISJOINT if apart else Sharing.OVERLAP
    if _seed_rule(a) != _seed_rule(b):
        return Sharing.OVERLAP
    same = all(getattr(a, field) == getattr(b, field) for field in _SAME_SAMPLES)
    prompts = [plan.text.prompts.sha256 if plan.text else None for plan in (a, b)]
    paired = same and prompts[0] == prompts[1] and num_a == num_b
    return Sharing.PAIRED if paired else Sharing.NOISE


def _seed_rule(plan: Plan) -> tuple[str, int] | None:
    """None where each sample has a seed of its own; else over how many prompts it is shared."""
    text = plan.text
    return None if text is None or text.seeds is None else (text.seeds, text.prompts.count)


def _overlap(a: Plan, b: Plan, num_a: int, num_b: int) -> Relation:
    spans = [(p.first_seed, p.first_seed + n) for p, n in ((a, num_a), (b, num_b))]
    shared = min(stop for _, stop in spans) - max(start for start, _ in spans)
    texts = [f"{start}..{stop - 1}" for start, stop in spans]
    effect = (
        f"{shared:,} seeds are in both at other indices, so the samples are neither pairs nor"
        " independent, and no interval holds: use equal seeds, or ranges apart (--replicate)"
    )
    return Relation(SEEDS, Kind.DIFFERENT, texts[0], texts[1], effect)


def _difference(a: Entry, b: Entry, meeting: Meeting, shared: Sharing) -> Difference:
    x, y = meeting.a, meeting.b
    assert x.value is not None
    assert y.value is not None
    value = y.value - x.value
    if shared is Sharing.OVERLAP:
        return Difference(value, None, False, ("no interval: the ranges of seeds overlap",))
    if _same_images(a, b, x, y):
        return Difference(value, None, False, ("no interval: both are of the very same images",))
    if x.standard_error is None or y.standard_error is None:
        return Difference(value, None, False, (_no_interval(a, b, x, y),))
    if shared is Sharing.PAIRED:
        influences = [influence_of(entry.run, record) for entry, record in ((a, x), (b, y))]
        if influences[0] is not None and influences[1] is not None:
            strata_N = _strata(a, x.protocol.num_samples)
            error = paired_standard_error(influences[0], influences[1], strata_N)
            said = interval_note(
                x.metric, x.protocol.num_samples, balanced=strata_N is not None, paired=True
            )
            pairs = "paired: sample i of both has the same seed and label"
            return Difference(value, error, True, (pairs, said) if said else (pairs,))
    error = math.hypot(x.standard_error, y.standard_error)
    return Difference(value, error, False, (_unpaired(a, b, x, shared), *_misses(a, b, x, y)))


def _misses(a: Entry, b: Entry, x: Record, y: Record) -> list[str]:
    """What stands beside each record's own interval, of which an unpaired one is made."""
    found: dict[str, list[str]] = {}
    for entry, record in ((a, x), (b, y)):
        for note in record.notes:
            if is_interval_note(note):
                found.setdefault(note, []).append(entry.name)
    return [f"of {' and '.join(names)}: {note}" for note, names in found.items()]


def _same_images(a: Entry, b: Entry, x: Record, y: Record) -> bool:
    """Whether both scored the same pixels: one plan and N, or pixels of one digest."""
    if x.protocol.num_samples != y.protocol.num_samples:
        return False
    if a.plan is not None and b.plan is not None:
        return a.plan == b.plan
    digest = x.samples.get("pixels_digest")
    return digest is not None and digest == y.samples.get("pixels_digest")


def _no_interval(a: Entry, b: Entry, x: Record, y: Record) -> str:
    """Why one of two records has no standard error, in its own words."""
    reasons: dict[str, list[str]] = {}
    for entry, record in ((a, x), (b, y)):
        if record.standard_error is None:
            said = [note for note in record.notes if note.startswith("no standard error")]
            reasons.setdefault(said[0] if said else "no standard error", []).append(entry.name)
    listed = "; ".join(f"of {' and '.join(names)} {said}" for said, names in reasons.items())
    return f"no interval: {listed}"


def _unpaired(a: Entry, b: Entry, record: Record, shared: Sharing) -> str:
    """What an unpaired interval rests on."""
    if shared is Sharing.DISJOINT:
        return "unpaired: the two share no seeds"
    if shared is Sharing.UNKNOWN:
        return "unpaired: taken as independent, which nobody recorded"
    if shared is Sharing.NOISE:
        return (
            "unpaired: the noise is shared but not labels, size or N, so the two are not quite"
            " independent"
        )
    files = [entry.where for entry in (a, b) if entry.run is None]
    if files:
        return (
            f"unpaired although noise and labels are shared, usually too wide: {files[0]} is a file"
            " without influence values; give the run directory"
        )
    return (
        f"unpaired although noise and labels are shared, usually too wide: {record.metric} has no"
        " influence values of single samples"
    )


def influence_of(run: RunDirectory | None, record: Record) -> NDArray[np.float64] | None:
    """float64 [N] influence values that a run keeps beside a record; None when it has none.

    Raises:
        CorruptionError: the file is not an array of N finite numbers.
    """
    if run is None or not run.storage.exists(record.influence_path):
        return None
    where = run.storage.path(record.influence_path)
    again = f"`evalsuite evaluate {run.root}` writes it again"
    try:
        values = np.load(io.BytesIO(run.storage.read(record.influence_path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptionError(f"{where} is no array: {again}") from error
    shape = (record.protocol.num_samples,)
    if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype != np.float64:
        raise CorruptionError(f"{where} does not hold {shape[0]} float64 values: {again}")
    if not np.isfinite(values).all():
        raise CorruptionError(f"{where} holds values that are not finite: {again}")
    return values


def _strata(entry: Entry, num_samples: int) -> NDArray[np.int64] | None:
    assert entry.run is not None
    plan, manifest = entry.run.plan, entry.run.manifest
    labels = labels_of(plan, 0, num_samples, manifest.file_labels)
    return strata_of(plan.labels.describe(), labels)
