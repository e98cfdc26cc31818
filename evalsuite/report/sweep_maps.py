"""Which configurations of a sweep a map over two settings holds: the others are as its leader."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evalsuite.errors import UsageError
from evalsuite.pipeline.comparison_inputs import Entry
from evalsuite.report.facts import fact_of
from evalsuite.report.sweep_points import SweepAxis, SweepPoints, Tried, level_with, points_of
from evalsuite.sweep.directory import SweepDirectory


class Mapped(NamedTuple):
    """What a map is made from.

    Attributes:
        entries: runs of the configurations.
        fixed: values of the axes that it does not show; empty where it shows all.
    """

    entries: list[Entry]
    fixed: str


def mapped(directory: SweepDirectory, entries: Sequence[Entry], across: str, down: str) -> Mapped:
    """The configurations of a map, as on the sweep's page: axes not shown are as the leader's.

    Args:
        directory: the sweep.
        entries: its runs that have records.
        across: what stands on the axis, as of `curves_of`.
        down: the group.

    Raises:
        UsageError: a sweep of more than two axes of which the two show less than two, or that has
            no leader yet.
        CorruptionError: a rung cannot be read.
    """
    points = points_of(directory)
    if len(points.axes) < 3:
        return Mapped(list(entries), "")
    names = ", ".join(axis.name for axis in points.axes)
    what = f"--map is of two axes, and {directory.root} has {len(points.axes)} ({names})"
    if not points.rungs:
        raise UsageError(f"{what}: the others are as the leader's, and no rung is decided yet")
    by_run = {entry.where: entry for entry in entries}
    found = {
        one.entry.name: entry
        for one in points.rungs[0][1]
        if (entry := by_run.get(str(directory.place(one.entry.run)))) is not None
    }
    rest = [axis for axis in points.axes if not _is_shown(axis, points, found, (across, down))]
    if len(points.axes) - len(rest) < 2:
        raise UsageError(f"{what}: give --x and --group that tell two of them apart")
    level = level_with(points.winner, points.rungs[0][1], rest)
    kept = [found[one.entry.name] for one in level.tried if one.entry.name in found]
    return Mapped(kept, level.fixed)


def _is_shown(
    axis: SweepAxis, points: SweepPoints, found: Mapping[str, Entry], names: Sequence[str]
) -> bool:
    """Whether configurations that differ along this axis alone stand at different places."""
    others = [other for other in points.axes if other is not axis]
    places: dict[tuple[int, ...], set[tuple[str, ...]]] = {}
    for one in points.rungs[0][1]:
        if one.entry.name in found:
            beside = tuple(one.places[other.name] for other in others)
            facts = tuple(_fact(one, found[one.entry.name], name) for name in names)
            places.setdefault(beside, set()).add(facts)
    return any(len(different) > 1 for different in places.values())


def _fact(one: Tried, entry: Entry, name: str) -> str:
    """Of a configuration in words; costs and metrics, which tell any two apart, are none."""
    return str(one.entry.nfe if name == "nfe" else fact_of(entry, name))
