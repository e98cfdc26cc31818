"""`evalsuite report`: the HTML page of a run."""

from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PLACE

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite report runs/pixnerd-digits-a1b2c3d4\n"
    "  evalsuite report $(ls -d runs/*/ | tail -1)"
)
@click.argument("run", type=PLACE)
def report(run: "Place") -> None:
    """Write RUN/report/index.html from what the run holds; self-contained, opens offline."""
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.report.html import write_report

    click.echo(str(write_report(RunDirectory.open(run))))
