"""`evalsuite plot`: a metric against a setting, a cost or a training step."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PATH, PLACE, POSITIVE
from evalsuite.cli.table_format import table_format_option
from evalsuite.errors import StorageError, UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.report.curves import Curves

_HTML = "html"


@click.command(
    epilog="Examples:\n\n\b\n"
    "  evalsuite plot watches/pixnerd-xl-256-a1b2c3d4 --x train_step --output curve.pdf\n"
    "  evalsuite plot sweeps/pixnerd-digits-da8bd0ea --x guidance_scale --output curve.html"
)
@click.argument("runs", nargs=-1, required=True, type=PLACE)
@click.option(
    "--x",
    "x_axis",
    metavar="NAME",
    required=True,
    help="train_step, gpu_hours, nfe, tag.NAME, a metric, a field of the plan or a sweep's axis.",
)
@click.option("--y", "y_axis", metavar="METRIC", help="[default: fid; of sweeps ranked_by].")
@click.option("--group", metavar="NAME", help="A curve for each tag.NAME, model, input or field.")
@click.option("--map", "as_map", is_flag=True, help="A heat map of --x across, --group down.")
@click.option("--num-samples", type=POSITIVE, help="Only numbers of so many samples.")
@click.option("--protocol", metavar="NAME", help="Only numbers of this protocol.")
@click.option("--output", type=PATH, help="File that ends in .png, .pdf, .svg or .html.")
@table_format_option
def plot(
    runs: "tuple[Place, ...]",
    x_axis: str,
    y_axis: str | None,
    group: str | None,
    as_map: bool,
    num_samples: int | None,
    protocol: str | None,
    output: Path | None,
    table_format: str | None,
) -> None:
    """Plot a metric of RUNS with its 95 % band; RUNS may be sweeps, watches and --json files too.

    A field of the plan may be named by its last part, such as guidance_scale. A curve is of one
    protocol and one number of samples; runs that differ in more than the axis need a --group;
    replicates become their mean. `--format csv` prints the same data.

    Of sweeps it draws ranked_by, the number by which each rung ranks: on rungs of few samples the
    metric extrapolated to infinite N, with the interval of the difference from the leader.
    `status SWEEP --format latex` prints the tables of its rungs.
    """
    from evalsuite.cli.output import notice, write_file
    from evalsuite.cli.plot_inputs import open_inputs
    from evalsuite.report.curves import curves_of
    from evalsuite.report.figures import figure_of_map

    if output is None and table_format is None:
        raise UsageError("give --output FILE, or --format csv to print the data")
    kind = None if output is None else _kind(output)
    if as_map and (group is None or kind in {None, _HTML}):
        raise UsageError("--map needs a --group, and an --output that ends in .png, .pdf or .svg")
    inputs = open_inputs(runs)
    if as_map and group is not None:
        inputs = inputs.for_map(x_axis, group)
    y = y_axis or inputs.y
    found = curves_of(inputs.entries, x_axis, y, group, num_samples, protocol, inputs.rankings)
    found = found._replace(notes=(*inputs.notes, *found.notes))
    for line in found.lines:
        notice(printable(line))
    if output is not None and kind is not None:
        write_file(output, figure_of_map(found, kind) if as_map else encoded(found, kind))
        click.echo(str(output), err=table_format is not None)  # stdout is the table's then
    if table_format is not None:
        click.echo(_table(found, table_format), nl=False)


def encoded(found: "Curves", kind: str) -> bytes:
    """The file of a figure: of `report.figures`, or the page."""
    if kind == _HTML:
        from evalsuite.report.curve_page import render_curves

        return render_curves(found).encode("utf-8", "replace")
    from evalsuite.report.figures import figure_of_curves

    return figure_of_curves(found, kind)


def _kind(output: Path) -> str:
    from evalsuite.cli.output import is_writable_file
    from evalsuite.report.figures import FIGURE_FORMATS

    kinds = (*FIGURE_FORMATS, _HTML)
    kind = output.suffix.removeprefix(".").lower()
    if kind not in kinds:
        raise UsageError(
            f"--output {output}: the name must end in {', '.join(f'.{k}' for k in kinds)}"
        )
    if not is_writable_file(output):
        raise StorageError(
            f"--output {output} cannot be written: its folder must exist and be writable"
        )
    return kind


def _table(found: "Curves", table_format: str) -> str:
    from evalsuite.report.board import to_csv
    from evalsuite.report.curve_tables import columns_of, curve_rows, curves_table
    from evalsuite.report.tables import TableFormat, render

    to = TableFormat(table_format)
    if to is TableFormat.CSV:
        return to_csv(curve_rows(found), columns_of(found))
    return render([curves_table(found)], to)
