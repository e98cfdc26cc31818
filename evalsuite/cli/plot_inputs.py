"""What is plotted: runs, files of records, and the runs of sweeps and watches."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from evalsuite.artifacts.records import UNSEALED
from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import Place
from evalsuite.cli.output import notice
from evalsuite.errors import DataError
from evalsuite.pipeline.comparison_inputs import Entry, entry_of_records, open_entry
from evalsuite.report.facts import TRAIN_STEP
from evalsuite.report.rankings import RANKED, Ranking, ranking_of
from evalsuite.report.sweep_maps import mapped
from evalsuite.report.sweep_points import places_of
from evalsuite.sweep.directory import SweepDirectory, is_sweep
from evalsuite.sweep.values import shown
from evalsuite.sweep.watch_directory import CheckpointEntry, WatchDirectory, is_watch


class Inputs(NamedTuple):
    """What a figure is made from.

    Attributes:
        entries: runs and files of records, under the names of the inputs that they came from.
        sweeps: those among the inputs.
        rankings: of the sweeps.
        are_sweeps: whether there is nothing else.
        notes: what must be known of the entries and of their choice.
    """

    entries: list[Entry]
    sweeps: list[SweepDirectory]
    rankings: list[Ranking]
    are_sweeps: bool
    notes: tuple[str, ...] = ()

    @property
    def y(self) -> str:
        """What is drawn unless something is asked: of sweeps that by which they rank.

        Before any rung is decided nothing ranks, and the metric itself is drawn.
        """
        metrics = {ranking.metric for ranking in self.rankings}
        if not self.are_sweeps or len(metrics) > 1:
            return "fid"
        return RANKED if any(ranking.rows for ranking in self.rankings) else metrics.pop()

    def for_map(self, across: str, down: str) -> "Inputs":
        """Those of a map: of one sweep, what is as its leader along all other axes.

        Raises:
            UsageError: the two do not tell two axes apart, or nobody leads yet.
            CorruptionError: a rung cannot be read.
        """
        if len(self.sweeps) != 1 or not self.are_sweeps:
            return self
        entries, fixed = mapped(self.sweeps[0], self.entries, across, down)
        notes = (f"the other axes as the sweep's leader: {fixed}",) if fixed else ()
        return self._replace(entries=entries, notes=(*_without_hashes(entries), *notes))


def open_inputs(places: Sequence[Place]) -> Inputs:
    """The inputs of a figure, each run under the name of the input that it came from.

    Inputs that have no numbers yet are said and left out.

    Raises:
        DataError: something that is no input, or none has a number.
        CorruptionError: the rungs of a sweep, or records, that cannot be read.
    """
    entries: list[Entry] = []
    sweeps: list[SweepDirectory] = []
    for place in places:
        if is_watch(place):
            found = entries_of_watch(WatchDirectory.open(place))
        elif is_sweep(place):
            sweeps.append(SweepDirectory.open(place))
            found = list(_of_sweep(sweeps[-1]))
        elif is_run(place) and not _is_scored(place):
            found = []
        else:
            found = [open_entry(str(place), place)]
        if not found:
            notice(f"left out: {place} has no numbers yet")
        entries += found
    if not entries:
        raise DataError("no input has numbers yet: `evalsuite evaluate RUN` makes those of a run")
    rankings = list(map(ranking_of, sweeps))
    for ranking in rankings:
        if not ranking.rows:
            notice(f"{ranking.sweep}: no rung is decided yet, so nothing is ranked")
    for line in (line for sweep in sweeps for line in sweep.lacking_lines):
        notice(line)
    are_sweeps = len(sweeps) == len(places)
    return Inputs(entries, sweeps, rankings, are_sweeps, _without_hashes(entries))


def _without_hashes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """One line of all records whose edit would not be seen: a figure has no room for more."""
    found = [f"{r.display} of {e.where}" for e in entries for r in e.records if not r.is_sealed]
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (f"{found[0]}{others}: {UNSEALED}",) if found else ()


def entries_of_watch(directory: WatchDirectory) -> list[Entry]:
    """The scored checkpoints, each with its step as the tag `train_step`."""
    return [_of_checkpoint(directory, entry) for entry in directory.entries()]


def _of_checkpoint(directory: WatchDirectory, entry: CheckpointEntry) -> Entry:
    records = directory.records(entry)
    where = str(directory.place(entry.run))
    return entry_of_records(str(directory.root), where, records, {TRAIN_STEP: str(entry.step)})


def _of_sweep(directory: SweepDirectory) -> Iterator[Entry]:
    """Configurations that have records; a sweep that was ended early lacks some."""
    lacking = []
    values, places = directory.manifest.axes, places_of(directory.manifest)
    for entry in directory.manifest.configurations:
        place = directory.place(entry.run)
        if is_run(place) and _is_scored(place):
            axes = {name: shown(values[name][at]) for name, at in places[entry.name].items()}
            yield replace(open_entry(str(directory.root), place), axes=axes)
        else:
            lacking.append(entry.name)
    if lacking:
        notice(f"{directory.root}: {len(lacking)} configurations have no numbers")


def _is_scored(run: Place) -> bool:
    return bool(RunDirectory.open(run).storage.names("results", ".json"))
