"""What is compared: runs and JSON files of records, and which of their records meet."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import Place
from evalsuite.config import Plan, ProtocolSpec, canonical_json, explain, load_spec, names_of
from evalsuite.errors import CorruptionError, DataError, UsageError, nearest
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.comparability import Side, comparability, declare
from evalsuite.pipeline.record_files import (
    Tell,
    by_samples,
    inputs_of,
    nobody,
    read_record,
    written_in,
)


@dataclass(frozen=True, eq=False)
class Entry:
    """One input of a comparison.

    Attributes:
        name: letter by which tables name it.
        where: path as the user gave it.
        records: what was measured of it.
        run: the run, when it is one; only runs have influence values.
        plan: what made its samples; None for samples that someone else made.
        model: preset of the run.
        tags: of its invocations, later ones win.
        axes: its values along the axes of the sweep that it came from, as texts.
    """

    name: str
    where: str
    records: tuple[Record, ...]
    run: RunDirectory | None
    plan: Plan | None
    model: str | None
    tags: Mapping[str, str]
    axes: Mapping[str, str] = field(default_factory=dict)

    def of_metric(self, metric: str) -> list[Record]:
        """Its records of one metric."""
        return [record for record in self.records if record.metric == metric]

    def with_records(self, records: Iterable[Record]) -> "Entry":
        """The same input with other records."""
        return replace(self, records=tuple(records))


class Meeting(NamedTuple):
    """Two records that are to be compared, and why these."""

    a: Record
    b: Record
    chosen: str | None


def letters(count: int) -> list[str]:
    """A, B, ... Z, AA, AB, ...: names of inputs."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = itertools.chain.from_iterable(
        map("".join, itertools.product(alphabet, repeat=width)) for width in itertools.count(1)
    )
    return list(itertools.islice(names, count))


def open_entry(name: str, place: Place) -> Entry:
    """Read a run directory, or a file that `--json` of `run` or `evaluate` wrote.

    Raises:
        DataError: there is nothing, or it holds no records.
        UsageError: a JSON file of several sets of samples.
        CorruptionError: a record that cannot be read.
    """
    if is_run(place):
        found = _entry_of_run(name, place)
        if not found.records:
            raise DataError(f"{place} holds no results: `evalsuite evaluate {place}` makes them")
        return found
    if not isinstance(place, Path) or place.is_dir():
        raise DataError(f"{place} is no run: give a run directory, or a file that --json wrote")
    if not place.exists():
        raise DataError(
            f"{place} does not exist: give a run directory, or a file that --json wrote"
        )
    return _open_json(name, place)


def _entry_of_run(name: str, path: Place) -> Entry:
    run = RunDirectory.open(path)
    records = tuple(records_of_run(run))
    return Entry(name, str(path), records, run, run.plan, run.manifest.model, tags_of(run))


def records_of_run(run: RunDirectory) -> list[Record]:
    """All results of a run: most samples first, then by the registry of metrics, then reference.

    Raises:
        DataError: one is of a newer version.
        CorruptionError: one cannot be read, or was edited.
    """
    files = run.read_json_files("results").items()
    found = [read_record(content, f"{run.root}/results/{name}") for name, content in files]
    return sorted(found, key=_order)


def _order(record: Record) -> tuple[int, int, str, str, str]:
    places = {name: place for place, name in enumerate(METRICS)}
    place = places.get(record.metric, len(places))
    return -record.protocol.num_samples, place, record.metric, record.reference or "", record.path


def tags_of(run: RunDirectory) -> dict[str, str]:
    """Tags of a run's invocations; later ones win."""
    attempts = sorted(run.attempts(), key=lambda one: str(one.get("started_at", "")))
    return {key: str(value) for one in attempts for key, value in (one.get("tags") or {}).items()}


def _open_json(name: str, path: Path) -> Entry:
    records, *others = by_samples(_records_in(path))
    if others:
        names = " and ".join(_samples_of(found[0]) for found in (records, others[0]))
        raise UsageError(
            f"{path} is of several sets of samples, such as {names}: give each by itself"
        )
    return entry_of_records(name, str(path), records, {})


def _records_in(path: Path) -> list[Record]:
    found = written_in(path)
    if not all(isinstance(one.content, dict) for one in found):
        raise DataError(f"{path} holds no records: give what `evalsuite evaluate --json` wrote")
    return [read_record(one.content, one.where) for one in found]


def _samples_of(record: Record) -> str:
    about = record.samples
    plan = f"plan {str(about['plan_id'])[:12]} of " if about.get("plan_id") else ""
    pixels = about.get("pixels_digest")
    digest = f" (pixels {pixels[:12]})" if pixels else ""
    return f"{plan}{about.get('model') or about.get('path') or 'unknown samples'}{digest}"


def entries_for_board(place: Place, tell: Tell = nobody) -> list[Entry]:
    """A run; or what files hold, an entry for each set of samples; or a folder of both.

    Paths name the entries. A run that has no results yet gives none.

    Args:
        place: of them.
        tell: is told of runs that a sweep or a watch refers to and that cannot be reached.

    Raises:
        DataError: there is nothing, or files that hold no records.
        CorruptionError: a record that cannot be read.
    """
    paths: Sequence[Place] = inputs_of(place, tell) if isinstance(place, Path) else [place]
    return [entry for path in paths for entry in _entries_in(path)]


def _entries_in(path: Place) -> list[Entry]:
    if is_run(path):
        found = _entry_of_run(str(path), path)
        return [found] if found.records else []
    if not isinstance(path, Path):
        return [open_entry(str(path), path)]
    return [
        entry_of_records(str(path), str(path), records, {})
        for records in by_samples(_records_in(path))
    ]


def entry_of_records(
    name: str, where: str, records: Sequence[Record], tags: Mapping[str, str]
) -> Entry:
    """An input that is known by its records alone, of one set of samples; at least one.

    Raises:
        CorruptionError: the plan in a record cannot be read.
    """
    samples = records[0].samples
    plan, model = _plan(samples, where), samples.get("model")
    return Entry(name, where, tuple(records), None, plan, model, tags)


def _plan(samples: Mapping[str, Any], where: str) -> Plan | None:
    if "plan" not in samples:
        return None
    try:
        return Plan.model_validate(samples["plan"])
    except ValidationError as error:
        raise CorruptionError(f"the plan in {where}: {explain(error, Plan)}") from error


def declare_in(
    entries: Sequence[Entry], declarations: Sequence[tuple[str | None, str, str]]
) -> list[Entry]:
    """Entries with statements of the user in their records.

    Args:
        entries: what is compared.
        declarations: (letter or path of an input, or None for all that lack it; field; value).

    Raises:
        UsageError: a statement about a known field, an unknown input, or one that no input lacks.
    """
    stated = list(entries)
    for target, name, value in declarations:
        matched = False
        for place, entry in enumerate(stated):
            if target is not None and target not in {entry.name, entry.where}:
                continue
            lacking = all(
                getattr(r.protocol, name) is None and name not in r.declared for r in entry.records
            )
            if target is None and not lacking:
                continue
            matched = True
            stated[place] = entry.with_records(declare(entry.records, {name: value}))
        if not matched:
            what = f"no input is {target!r}" if target else "it is known of every input"
            raise UsageError(f"--declare {name}={value}: {what}")
    return stated


def side_of(record: Record, plan: Plan | None) -> Side:
    """A record as the rules of comparability see it."""
    return Side(record.protocol, record.declared, len(plan.label_classes) if plan else None)


def of_protocols(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """Entries with only the records that are of one of these named protocols.

    A run keeps one record where two protocols define a metric alike, under the name of the last; so
    a record also counts as of a known protocol when its fields and reference are that one's.

    Raises:
        UsageError: an input has no such record.
    """
    known = {n: load_spec(ProtocolSpec, n) for n in names if n in names_of(ProtocolSpec)}
    kept = []
    for entry in entries:
        records = [r for r in entry.records if _is_of(r, names, known)]
        if not records:
            have = sorted({r.protocol_name or "none" for r in entry.records})
            raise UsageError(
                f"{entry.where} has no records of protocol {', '.join(names)}; it has"
                f" {', '.join(have)}"
            )
        kept.append(entry.with_records(records))
    return kept


def _is_of(record: Record, names: Sequence[str], known: Mapping[str, ProtocolSpec]) -> bool:
    if set(record.protocol_names) & set(names):
        return True
    return any(
        record.metric in spec.metrics
        and record.protocol.extractor.rpartition("-")[0] == spec.extractor
        and dict(METRICS[record.metric].fields(spec)) == record.protocol.details
        and record.reference in {None, *spec.references.values()}
        for spec in known.values()
    )


def of_count(entries: Sequence[Entry], num_samples: int) -> list[Entry]:
    """Entries with only the records of that many samples.

    Raises:
        UsageError: an input has none.
    """
    kept = []
    for entry in entries:
        records = [r for r in entry.records if r.protocol.num_samples == num_samples]
        if not records:
            have = sorted({r.protocol.num_samples for r in entry.records})
            raise UsageError(
                f"{entry.where} has no records of {num_samples} samples; it has"
                f" {', '.join(map(str, have))}"
            )
        kept.append(entry.with_records(records))
    return kept


def of_metrics(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """Entries with only the records of these metrics; an input may lack some.

    Raises:
        UsageError: no input has such a metric.
    """
    known = metrics_of(entries)
    for name in names:
        if name not in known:
            raise UsageError(f"no input has a metric {name!r}: {nearest(name, known)}")
    return [e.with_records(r for r in e.records if r.metric in names) for e in entries]


def measurement_key(record: Record) -> bytes:
    """What must be equal but for N: records of one key measure the same thing.

    The backend is left out, because the two agree.
    """
    fields = record.protocol.model_dump(
        mode="json",
        exclude={"num_samples", "backend", "label_rule", "uint8_rule", "codec", "sample_resize"},
    )
    return canonical_json(fields)


def metrics_of(entries: Iterable[Entry]) -> list[str]:
    """Metrics of any entry, in the registry's order, unknown ones last."""
    found = {record.metric for entry in entries for record in entry.records}
    return [m for m in METRICS if m in found] + sorted(found - METRICS.keys())


def meetings(a: Entry, b: Entry, metric: str, entries: Sequence[Entry]) -> list[Meeting]:
    """Which records of a metric are compared: one pair for each way in which both measured it.

    N is the largest that all entries have, else the largest that both have. Where the two have no
    way in common, the pair with the fewest differences meets, and is refused by name.

    Returns:
        Empty when one of the two does not have the metric.
    """
    pairs = [*itertools.product(a.of_metric(metric), b.of_metric(metric))]
    alike = [(x, y) for x, y in pairs if _alike(x, y)]
    if not alike:
        closest = min(pairs, key=lambda pair: _distance(pair, a.plan, b.plan), default=None)
        return [] if closest is None else [Meeting(*closest, None)]
    counts = {x.protocol.num_samples for x, _ in alike}
    everywhere = [
        {r.protocol.num_samples for r in e.of_metric(metric)}
        for e in entries
        if e.of_metric(metric)
    ]
    common = counts.intersection(*everywhere)
    count = max(common or counts)
    chosen = _choice(metric, count, pairs, common=bool(common), several=len(entries) > 2)
    found: dict[bytes, tuple[Record, Record]] = {}
    for x, y in sorted(alike, key=lambda pair: _distance(pair, a.plan, b.plan)):
        if x.protocol.num_samples == count:
            found.setdefault(measurement_key(x), (x, y))
    return [Meeting(x, y, chosen) for x, y in found.values()]


def _alike(x: Record, y: Record) -> bool:
    same_count = x.protocol.num_samples == y.protocol.num_samples
    return same_count and measurement_key(x) == measurement_key(y)


def _distance(
    pair: tuple[Record, Record], plan_x: Plan | None, plan_y: Plan | None
) -> tuple[int, int, int]:
    """Fewest refusals first, then fewest remarks, then the most samples."""
    x, y = pair
    found = comparability(side_of(x, plan_x), side_of(y, plan_y))
    count = min(x.protocol.num_samples, y.protocol.num_samples)
    return len(found.refusals), len(found.relations), -count


def _choice(
    metric: str, count: int, pairs: Sequence[tuple[Record, Record]], *, common: bool, several: bool
) -> str | None:
    others = {r.protocol.num_samples for pair in pairs for r in pair} - {count}
    if not others:
        return None
    whose = "all" if common and several else "both"
    listed = ", ".join(f"{n:,}" for n in sorted(others))
    return (
        f"{metric}: N = {count:,} was chosen, the largest that {whose} have; --num-samples takes"
        f" another ({listed})"
    )
