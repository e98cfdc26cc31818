"""`evalsuite report`: the HTML page of a run or a sweep."""

from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PLACE

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite report runs/pixnerd-digits-a1b2c3d4\n"
    "  evalsuite report sweeps/pixnerd-digits-da8bd0ea"
)
@click.argument("run", type=PLACE, metavar="RUN|SWEEP")
def report(run: "Place") -> None:
    """Write report/index.html of a run or a sweep from what it holds; it opens offline.

    Runs of many classes get pictures in files beside the page: keep the folder together.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.report.html import write_report
    from evalsuite.report.sweep_page import write_sweep_report
    from evalsuite.sweep.directory import SweepDirectory, is_sweep

    if is_sweep(run):
        click.echo(str(write_sweep_report(SweepDirectory.open(run))))
    else:
        click.echo(str(write_report(RunDirectory.open(run))))
