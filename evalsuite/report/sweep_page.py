"""The page of a sweep: what was asked and found, curves with bands, heat maps, every rung."""

from typing import NamedTuple

from markupsafe import Markup

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import Place
from evalsuite.errors import CorruptionError, UsageError
from evalsuite.metrics.registry import METRICS
from evalsuite.report.environment import fill, script_sha256
from evalsuite.report.html import Report, write_page
from evalsuite.report.invocations import invocations_of
from evalsuite.report.sweep_charts import against, along, heat_maps, scale_of
from evalsuite.report.sweep_points import SweepPoints, Tried, hours_per_image, points_of
from evalsuite.sweep.directory import SweepDirectory

MOST_ROWS = 200
"""Configurations in the table of a rung."""


class _Chapter(NamedTuple):
    name: str
    title: str


def write_sweep_report(directory: SweepDirectory) -> Place:
    """Write `report/index.html` into a sweep directory, and say where it lies.

    Raises:
        UsageError: no rung is decided yet.
        CorruptionError: a rung or the result cannot be read.
    """
    return write_page(directory.storage, Report(render_sweep(directory), {}))


def render_sweep(directory: SweepDirectory) -> str:
    """The page as HTML; an unchanged sweep gives unchanged text.

    Raises:
        UsageError: no rung is decided yet.
        CorruptionError: a rung or the result cannot be read.
    """
    points, result = points_of(directory), directory.result()
    if not points.rungs:
        raise UsageError(f"{directory.root}: no rung is decided yet, so there is nothing to show")
    manifest = directory.manifest
    parts = {
        _Chapter("asked", "Asked and found"): fill(
            "sweep/asked.html.j2",
            manifest=manifest,
            axes=points.axes,
            result=result,
            metric=manifest.display,
        ),
        _Chapter("curves", "Along each axis"): _curves(
            points, manifest.display, lower=manifest.better == "lower"
        ),
        _Chapter("maps", "Over two axes"): _maps(directory, points),
        _Chapter("against", "Against other numbers"): _against(directory, points),
        _Chapter("rungs", "Rungs"): fill(
            "sweep/rungs.html.j2",
            rungs=points.rungs,
            metric=manifest.display,
            prefix=manifest.prefix,
            displays={name: spec.display for name, spec in METRICS.items()},
            most_rows=MOST_ROWS,
        ),
        _Chapter("provenance", "Provenance"): fill(
            "sweep/provenance.html.j2",
            directory=directory,
            manifest=manifest,
            command=_command(directory, points),
            most_rows=MOST_ROWS,
        ),
    }
    html = fill(
        "sweep.html.j2",
        manifest=manifest,
        result=result,
        metric=manifest.display,
        sections=[(chapter, part) for chapter, part in parts.items() if part],
        script_sha256=script_sha256(),
    )
    return str(html)


def _curves(points: SweepPoints, display: str, *, lower: bool) -> Markup | None:
    """For each axis the widest rung, and the others on demand."""
    shown = []
    for axis in points.axes:
        others = [one for one in points.axes if one is not axis]
        charts = [
            (table, along(axis, tried, scale_of(table, display), others, lower=lower))
            for table, tried in points.rungs
        ]
        drawn = [(table, made) for table, made in charts if made is not None]
        first = next((one for one in drawn if one[0] is points.widest[0]), None)
        main = first or (drawn[-1] if drawn else None)
        if main is not None:
            shown.append((axis, main, [one for one in drawn if one is not main]))
    return fill("sweep/curves.html.j2", shown=shown) if shown else None


def _maps(directory: SweepDirectory, points: SweepPoints) -> Markup | None:
    if len(points.axes) < 2:
        return None
    manifest = directory.manifest
    shown = [
        (
            table,
            scale_of(table, manifest.display).title,
            heat_maps(
                points.axes,
                tried,
                scale_of(table, manifest.display),
                points.winner,
                lower=manifest.better == "lower",
            ),
        )
        for table, tried in points.rungs
    ]
    return fill("sweep/maps.html.j2", shown=shown)


def _against(directory: SweepDirectory, points: SweepPoints) -> Markup | None:
    table, tried = points.widest
    hours = hours_per_image(directory, [one.entry for one in tried])
    manifest = directory.manifest
    scale = scale_of(table, manifest.display)
    charts = against(tried, scale, hours, table.num_samples, manifest.prefix)
    return fill("sweep/against.html.j2", charts=charts, table=table) if charts else None


def _command(directory: SweepDirectory, points: SweepPoints) -> str | None:
    """The command that asked for the sweep, as one of its runs remembers it."""
    candidates: list[Tried] = points.rungs[0][1]
    for one in candidates:
        try:
            run = RunDirectory.open(directory.place(one.entry.run))
            commands = [made.command for made in invocations_of(run)]
        except (UsageError, CorruptionError):
            continue
        found = [command for command in commands if command.startswith("evalsuite sweep")]
        if found:
            return found[-1]
    return None
