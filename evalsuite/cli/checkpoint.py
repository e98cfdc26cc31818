"""`evalsuite inspect` and `evalsuite convert`: what a checkpoint holds, and its weights alone."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from evalsuite.cli.options import PATH
from evalsuite.errors import printable

if TYPE_CHECKING:
    from evalsuite.models.checkpoints.inspect import CheckpointSummary, GroupSummary


@click.command(
    name="inspect",
    epilog="Examples:\n\n\b\n  evalsuite inspect model.ckpt\n"
    "  evalsuite inspect exported-folder --json contents.json",
)
@click.argument("checkpoint", type=PATH)
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def inspect_checkpoint(checkpoint: Path, json_path: Path | None) -> None:
    """Show what CHECKPOINT holds: sets of weights, step, sizes, and the model that each fits.

    CHECKPOINT is a torch or safetensors file, or a diffusers folder. Nothing in it is executed, and
    no weights are read into memory.
    """
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.models.checkpoints.inspect import inspect
    from evalsuite.pipeline.weights import preset_networks

    check_json_target(json_path)
    summary = inspect(checkpoint, preset_networks())
    _show(summary)
    if json_path is not None:
        content = dataclasses.asdict(summary)
        content["other"] = {name: count._asdict() for name, count in summary.other.items()}
        write_json(json_path, content)


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite convert model.ckpt --output model.safetensors\n"
    "  evalsuite convert model.ckpt --ema raw --output raw.safetensors",
)
@click.argument("checkpoint", type=PATH)
@click.option("--output", type=PATH, required=True, help="Safetensors file to write.")
@click.option(
    "--ema",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, raw, or one set of weights as `inspect` names it.",
)
@click.option(
    "--dtype",
    type=click.Choice(["stored", "float32"]),
    default="stored",
    show_default=True,
    help="Of floating-point tensors in the output.",
)
def convert(checkpoint: Path, output: Path, ema: str, dtype: Literal["stored", "float32"]) -> None:
    """Write one set of weights of CHECKPOINT as safetensors.

    Files that hold objects of foreign classes can be converted too: the objects are left out, and
    nothing is executed.
    """
    from evalsuite.cli.output import data_size
    from evalsuite.models.checkpoints.choosing import choose_group
    from evalsuite.models.checkpoints.convert import convert as write
    from evalsuite.models.checkpoints.reading import open_checkpoint

    group = choose_group(open_checkpoint(checkpoint, restricted=True), ema, None)
    written = write(checkpoint, group, output, dtype)
    doubts = f"; our models will refuse it: {'; '.join(written.doubts)}" if written.doubts else ""
    _say(
        f"{written.path}  {group or 'all weights'}, {written.num_tensors} tensors,"
        f" {data_size(written.num_bytes)}  sha256 {written.sha256}{doubts}"
    )


def _show(summary: "CheckpointSummary") -> None:
    from evalsuite.cli.output import data_size

    _say(f"file    {summary.path}  {data_size(summary.num_bytes)}, {summary.layout}")
    for name, value in summary.about.items():
        _say(f"        {name} {value}")
    for group in summary.groups:
        _show_group(group)
    for name, aside in summary.other.items():
        _say(f"aside   {name}  {aside.num_tensors} tensors, {data_size(aside.num_bytes)}")
    if summary.foreign:
        _say(f"foreign {', '.join(summary.foreign)}")
        _say(
            "        their code is never run: the file has to be converted, and `evalsuite convert`"
            " takes the weights alone"
        )


def _show_group(group: "GroupSummary") -> None:
    from evalsuite.cli.output import data_size

    kind = "EMA" if group.is_ema else "raw or unstated"
    kind += f", decay {group.decay}" if group.decay is not None else ""
    dtypes = ", ".join(group.dtypes)
    _say(f"weights {group.name or '(no prefix)'}  {kind}")
    _say(
        f"        {group.num_tensors} tensors, {group.num_parameters:,} parameters,"
        f" {data_size(group.num_bytes)}, {dtypes}"
    )
    if group.family is None:
        _say("        of no known family")
        return
    sizes = ", ".join(f"{name} {value}" for name, value in group.network.items())
    _say(f"        looks like {group.family}{f' {group.note}' if group.note else ''}: {sizes}")
    if group.presets:
        relation = "fits" if group.presets_exact else "is nearest to"
        faults = f", and does not fit: {'; '.join(group.faults)}" if group.faults else ""
        _say(f"        {relation} {', '.join(group.presets)}{faults}")


def _say(line: str) -> None:
    """A line of a result; names in a checkpoint may hold what a terminal would obey."""
    click.echo(printable(line))
