"""A sweep as its page shows it: configurations at their places along the axes, by rung."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.config import AxisValue
from evalsuite.errors import CorruptionError, UsageError
from evalsuite.pipeline.spending import spent
from evalsuite.sweep.directory import ConfigurationEntry, SweepDirectory, SweepManifest
from evalsuite.sweep.tables import RungRow, RungTable
from evalsuite.sweep.values import shown


class SweepAxis(NamedTuple):
    """An axis with more than one value.

    Attributes:
        name: of the setting.
        values: in their order.
        texts: of the values.
        numbers: the values where all are numbers; None otherwise.
    """

    name: str
    values: tuple[AxisValue, ...]
    texts: tuple[str, ...]
    numbers: tuple[float, ...] | None


class Tried(NamedTuple):
    """A configuration on one rung, with its place along every axis.

    Attributes:
        entry: the configuration.
        row: its numbers.
        places: index of its value along each axis, by the axis' name.
    """

    entry: ConfigurationEntry
    row: RungRow
    places: Mapping[str, int]


class SweepPoints(NamedTuple):
    """What the page's charts and tables are made from.

    Attributes:
        axes: those along which configurations differ.
        rungs: tables in their order, each with its configurations.
    """

    axes: list[SweepAxis]
    rungs: list[tuple[RungTable, list[Tried]]]

    @property
    def widest(self) -> tuple[RungTable, list[Tried]]:
        """The rung of the most samples that still has three configurations, else the first."""
        many = [rung for rung in self.rungs if len(rung[1]) > 2]
        return many[-1] if many else self.rungs[0]

    @property
    def winner(self) -> Tried:
        """The leader of the last rung that is decided."""
        _, finalists = self.rungs[-1]
        return finalists[0]


class Level(NamedTuple):
    """Configurations that are as the winner along some axes.

    Attributes:
        tried: the configurations.
        fixed: the values along these axes, in words.
    """

    tried: list[Tried]
    fixed: str


def level_with(winner: Tried, tried: Sequence[Tried], axes: Sequence[SweepAxis]) -> Level:
    """Those of the configurations that are as the winner along these axes."""
    level = [
        one
        for one in tried
        if all(one.places[axis.name] == winner.places[axis.name] for axis in axes)
    ]
    fixed = ", ".join(f"{axis.name}={axis.texts[winner.places[axis.name]]}" for axis in axes)
    return Level(level, fixed)


def points_of(directory: SweepDirectory) -> SweepPoints:
    """Configurations of each decided rung.

    Raises:
        CorruptionError: a rung cannot be read.
    """
    manifest = directory.manifest
    axes = [
        SweepAxis(name, values, tuple(map(shown, values)), _numbers(values))
        for name, values in manifest.axes.items()
        if len(values) > 1
    ]
    places = places_of(manifest)
    rungs = []
    for table in directory.rungs():
        tried = [Tried(manifest.entry(row.name), row, places[row.name]) for row in table.rows]
        rungs.append((table, tried))
    return SweepPoints(axes, rungs)


def places_of(manifest: SweepManifest) -> dict[str, dict[str, int]]:
    """Of each configuration, by its name, the index of its value along every axis."""
    spaces = [range(len(values)) for values in manifest.axes.values()]
    return {
        entry.name: dict(zip(manifest.axes, point, strict=True))
        for entry, point in zip(manifest.configurations, itertools.product(*spaces), strict=True)
    }


def hours_per_image(directory: SweepDirectory, entries: Sequence[ConfigurationEntry]) -> "Hours":
    """What an image of each configuration cost, of the runs that are at hand."""
    on_gpus: dict[str, float] = {}
    on_cpus: dict[str, float] = {}
    for entry in entries:
        try:
            run = RunDirectory.open(directory.place(entry.run))
            images = sum(receipt.stop - receipt.start for receipt in run.committed(IMAGES))
            cost = spent(run)
        except (UsageError, CorruptionError):  # moved away, or damaged: no cost is known
            continue
        if images and cost["gpu_hours"]:
            on_gpus[entry.name] = cost["gpu_hours"] / images
        elif images and cost["cpu_hours"]:
            on_cpus[entry.name] = cost["cpu_hours"] / images
    return Hours("GPU-hours", on_gpus) if on_gpus else Hours("CPU-hours", on_cpus)


class Hours(NamedTuple):
    """Hours per image by configuration, in one unit: runs on GPUs and on CPUs are never mixed."""

    unit: str
    by_name: Mapping[str, float]


def _numbers(values: Sequence[AxisValue]) -> tuple[float, ...] | None:
    found = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return tuple(map(float, found)) if len(found) == len(values) else None
