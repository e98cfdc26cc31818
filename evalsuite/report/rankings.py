"""By what the rungs of a sweep rank, read beside the records that its runs hold.

A rung of few samples ranks by the distance extrapolated to infinite N, because the plain one is
biased there by an amount that differs from setting to setting.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from evalsuite.artifacts.records import Protocol, Record, same_number
from evalsuite.errors import UsageError
from evalsuite.pipeline.comparison import Z_95
from evalsuite.pipeline.comparison_inputs import Entry
from evalsuite.report.facts import as_number
from evalsuite.sweep.directory import SweepDirectory
from evalsuite.sweep.tables import RungRow
from evalsuite.sweep.values import shown

RANKED = "ranked_by"
"""What stands for a metric where the numbers are those by which sweeps rank."""
EXTRAPOLATED = "extrapolated to infinite N"


class Reading(NamedTuple):
    """What is drawn of a record.

    Attributes:
        value: the number.
        error: its standard error; None without one.
        half_width: of its interval; of an extrapolated one, of the difference from the leader.
        extrapolated: whether it is not the record's value, but that extrapolated to infinite N.
        leads: whether it is the one from which the differences are; its width of 0 is no interval.
    """

    value: float
    error: float | None
    half_width: float | None
    extrapolated: bool = False
    leads: bool = False


Read = Callable[[Entry, Record], Reading | None]
"""Gives what is drawn of a record of an input; None where there is nothing."""


class Ranking(NamedTuple):
    """The numbers by which one sweep ranks.

    Attributes:
        sweep: its directory, by which its entries are named.
        metric: of its rungs.
        display: the metric as it stands in tables, without N.
        protocol: of the metric.
        extrapolated: numbers of samples of the rungs that rank by the extrapolated distance.
        rows: of its rungs, by the run and the number of samples.
        axes: texts of the values of each axis, in the sweep's order.
    """

    sweep: str
    metric: str
    display: str
    protocol: Protocol
    extrapolated: frozenset[int]
    rows: Mapping[tuple[str, int], RungRow]
    axes: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def ranking_of(directory: SweepDirectory) -> Ranking:
    """What the decided rungs of a sweep hold.

    Raises:
        CorruptionError: a rung cannot be read.
    """
    manifest, tables = directory.manifest, directory.rungs()
    runs = {entry.name: str(directory.place(entry.run)) for entry in manifest.configurations}
    return Ranking(
        sweep=str(directory.root),
        metric=manifest.metric,
        display=manifest.display,
        protocol=manifest.protocol,
        extrapolated=frozenset(table.num_samples for table in tables if table.extrapolated),
        rows={(runs[row.name], table.num_samples): row for table in tables for row in table.rows},
        axes={name: tuple(map(shown, values)) for name, values in manifest.axes.items()},
    )


def words_along(x: str, rankings: Sequence[Ranking]) -> tuple[str, ...]:
    """Values of an axis of these sweeps in their order, where not all are numbers; else empty."""
    texts = [text for ranking in rankings for text in ranking.axes.get(x, ())]
    return () if all(as_number(text) is not None for text in texts) else tuple(dict.fromkeys(texts))


def metric_of(rankings: Sequence[Ranking]) -> str:
    """The metric by which all of these sweeps rank.

    Raises:
        UsageError: there is no sweep, or two rank by two metrics.
    """
    metrics = sorted({ranking.metric for ranking in rankings})
    if not metrics:
        raise UsageError(f"--y {RANKED} is of sweeps, and no input is one: give a metric")
    if len(metrics) > 1:
        raise UsageError(f"--y {RANKED}: these sweeps rank by {' and '.join(metrics)}: give one")
    return metrics[0]


def as_recorded(_: Entry, record: Record) -> Reading | None:
    """The value of a record with its 95 % interval; None of an undefined one."""
    return _plain(record.value, record.standard_error)


def _plain(value: float | None, error: float | None) -> Reading | None:
    """A value with its 95 % interval; None of an undefined one."""
    if value is None:
        return None
    return Reading(value, error, None if error is None else Z_95 * error)


def as_ranked(rankings: Sequence[Ranking]) -> Read:
    """The number by which the record's own sweep ranks it; None of any other record."""
    by_sweep = {ranking.sweep: ranking for ranking in rankings}

    def read(entry: Entry, record: Record) -> Reading | None:
        ranking = by_sweep.get(entry.name)
        count = record.protocol.num_samples
        row = ranking.rows.get((entry.where, count)) if ranking is not None else None
        if ranking is None or row is None or not _is_of(record, row, ranking.protocol):
            return None
        if count not in ranking.extrapolated:
            return _plain(row.value, row.standard_error)
        if row.ranked_by is None:
            return None
        leads = row.half_width is None and row.difference == 0
        half_width = 0.0 if leads else row.half_width
        return Reading(row.ranked_by, None, half_width, extrapolated=True, leads=leads)

    return read


def _is_of(record: Record, row: RungRow, protocol: Protocol) -> bool:
    """Whether a rung took its number from this record, of several by which a run was scored.

    Also where the run was scored again since: the last bits of the value may differ then.
    """
    alike = _measured(record.protocol) == _measured(protocol)
    return alike and same_number(record.value, row.value)


def _measured(protocol: Protocol) -> tuple[Any, ...]:
    return protocol.extractor_sha256, protocol.reference_sha256, protocol.details


def plain_notes(
    rankings: Sequence[Ranking], drawn: Iterable[tuple[str, str, int]]
) -> tuple[str, ...]:
    """What must be said where a plain metric is drawn of rungs that do not rank by it.

    Args:
        rankings: of the sweeps among the inputs.
        drawn: input, metric and number of samples of each number in the figure.
    """
    found: dict[str, set[int]] = {}
    for name, metric, count in drawn:
        for ranking in rankings:
            if (ranking.sweep, ranking.metric) == (name, metric) and count in ranking.extrapolated:
                found.setdefault(ranking.display, set()).add(count)
    return tuple(
        f"plain {display} of {' and '.join(f'{count:,}' for count in sorted(counts))} samples is"
        " biased by an amount that differs from setting to setting, and is not what the sweep"
        f" ranks by: --y {RANKED} draws that"
        for display, counts in found.items()
    )
