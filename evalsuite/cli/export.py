"""`evalsuite export`: a run's images in other people's layouts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PATH, PLACE, POSITIVE
from evalsuite.errors import UsageError

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place

_PROMPTED = ("geneval", "dpg")


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite export RUN --format adm-npz --output samples.npz\n"
    "  evalsuite export RUN --format geneval --metadata evaluation_metadata.jsonl --output images"
)
@click.argument("run", type=PLACE)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["adm-npz", "png", "geneval", "dpg"]),
    required=True,
    help="Layout.",
)
@click.option("--output", type=PATH, required=True, help="File or folder to write.")
@click.option(
    "--num-samples", type=POSITIVE, help="The first N only [default: all that were asked]."
)
@click.option(
    "--metadata", type=PATH, help="Of geneval and dpg: what each prompt asks for, or is called."
)
def export(
    run: "Place", layout: str, output: Path, num_samples: int | None, metadata: Path | None
) -> None:
    """Write the images of RUN in index order, as a stream.

    The order interleaves classes under the default labels, as ADM's Inception Score needs.
    Images that were not kept are made by the same command as the run with `--images all`.

    geneval writes a folder for each prompt as its scorer reads it, dpg a grid of 2 x 2 images for
    each: complete, or not at all. They need --metadata: GenEval's evaluation_metadata.jsonl, or
    DPG-Bench's dpg_bench.csv (or .jsonl with item_id and prompt), of the prompts of RUN.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.pipeline.export import export_adm_npz, export_png

    if (metadata is None) == (layout in _PROMPTED):
        raise UsageError(
            f"--format {layout} needs --metadata FILE"
            if metadata is None
            else f"--metadata: --format {layout} has no prompts"
        )
    directory = RunDirectory.open(run)
    count = num_samples or directory.num_asked()
    if layout == "adm-npz":
        digest = export_adm_npz(directory, count, output)
        click.echo(f"{output}  {count} images  sha256 {digest}")
    elif metadata is not None:
        from evalsuite.pipeline.export_t2i import export_dpg, export_geneval

        write = export_geneval if layout == "geneval" else export_dpg
        prompts = write(directory, count, metadata, output)
        click.echo(f"{output}  {count} images of {prompts} prompts")
    else:
        click.echo(f"{output}  {export_png(directory, count, output)} images")
