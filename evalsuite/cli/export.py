"""`evalsuite export`: a run's images in other people's layouts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PATH, PLACE, POSITIVE

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite export RUN --format adm-npz --output samples.npz\n"
    "  evalsuite export RUN --format png --output pngs --num-samples 100"
)
@click.argument("run", type=PLACE)
@click.option(
    "--format", "layout", type=click.Choice(["adm-npz", "png"]), required=True, help="Layout."
)
@click.option("--output", type=PATH, required=True, help="File or folder to write.")
@click.option(
    "--num-samples", type=POSITIVE, help="The first N only [default: all that were asked]."
)
def export(run: "Place", layout: str, output: Path, num_samples: int | None) -> None:
    """Write the images of RUN in index order, as a stream.

    The order interleaves classes under the default labels, as ADM's Inception Score needs.
    Images that were not kept are made by the same command as the run with `--images all`.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.pipeline.export import export_adm_npz, export_png

    directory = RunDirectory.open(run)
    count = num_samples or directory.num_asked()
    if layout == "adm-npz":
        digest = export_adm_npz(directory, count, output)
        click.echo(f"{output}  {count} images  sha256 {digest}")
    else:
        click.echo(f"{output}  {export_png(directory, count, output)} images")
