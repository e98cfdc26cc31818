"""`evalsuite status`: what a run holds, who works on it, and what it cost."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PATH, PLACE, NumberRange
from evalsuite.cli.table_format import table_format_option

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.pipeline.standing import Standing


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite status runs/pixnerd-digits-a1b2c3d4\n"
    "  evalsuite status runs/pixnerd-digits-a1b2c3d4 --watch"
)
@click.argument("run", type=PLACE)
@click.option("--watch", is_flag=True, help="Go on showing it until the run is complete.")
@click.option(
    "--every",
    type=NumberRange(min=0.1),
    metavar="SECONDS",
    help="Between two looks of --watch [default: 2].",
)
@click.option("--json", "json_path", type=PATH, help="Also write it here.")
@table_format_option
def status(
    run: "Place",
    watch: bool,
    every: float | None,
    json_path: Path | None,
    table_format: str | None,
) -> None:
    """Show what RUN holds and lacks, who works on it, how fast, and what it cost so far.

    Of a sweep directory it shows the rungs, who leads, and who is left, and --format prints the
    tables of the rungs; of a watch directory the checkpoints that are scored.

    An invocation is known to be running by its process where that is of this machine, and by its
    sign of life, every few seconds, where it is of another. GPU-hours are those that workers held.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.cli.status_view import lines_of, watch_run
    from evalsuite.errors import UsageError
    from evalsuite.pipeline.standing import standing_of
    from evalsuite.sweep.directory import is_sweep
    from evalsuite.sweep.watch_directory import is_watch

    if every is not None and not watch:
        raise UsageError("--every needs --watch")
    check_json_target(json_path)
    if is_sweep(run):
        _show_sweep(run, watch=watch, json_path=json_path, table_format=table_format)
        return
    if table_format is not None:
        raise UsageError(f"{run} is no sweep: --format prints the rungs of one")
    if is_watch(run):
        _show_watch(run, watch=watch, json_path=json_path)
        return
    directory = RunDirectory.open(run)

    def look() -> "Standing":
        standing = standing_of(directory)
        if json_path:
            write_json(json_path, standing.as_json())
        return standing

    if watch:
        watch_run(look, 2.0 if every is None else every)
        return
    for line in lines_of(look()):
        click.echo(line)


def _show_sweep(
    sweep: "Place", *, watch: bool, json_path: Path | None, table_format: str | None
) -> None:
    from evalsuite.cli.output import write_json
    from evalsuite.cli.sweep_view import standing_lines
    from evalsuite.errors import UsageError
    from evalsuite.report.sweep_tables import rung_tables
    from evalsuite.report.tables import TableFormat, render
    from evalsuite.sweep.directory import SweepDirectory

    if watch:
        raise UsageError(f"{sweep} is a sweep: --watch is for a run")
    directory = SweepDirectory.open(sweep)
    if table_format is not None:
        click.echo(render(rung_tables(directory), TableFormat(table_format)), nl=False)
    else:
        for line in standing_lines(directory):
            click.echo(line)
    if json_path:
        write_json(json_path, directory.as_json())


def _show_watch(place: "Place", *, watch: bool, json_path: Path | None) -> None:
    from evalsuite.cli.output import write_json
    from evalsuite.cli.watch_view import table_lines
    from evalsuite.errors import UsageError
    from evalsuite.sweep.watch_directory import WatchDirectory

    if watch:
        raise UsageError(f"{place} is a watch: --watch is for a run")
    directory = WatchDirectory.open(place)
    for line in table_lines(directory):
        click.echo(line)
    if json_path:
        write_json(json_path, directory.as_json())
