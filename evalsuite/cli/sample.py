"""`evalsuite sample`: one image again."""

from pathlib import Path
from typing import Any

import click

from evalsuite.cli.options import PATH, device_option, plan_options


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite sample --model pixnerd-digits --index 3\n"
    "  evalsuite sample --model pixnerd-digits --index 12345 --guidance-scale 2 --output seven.png"
)
@plan_options
@click.option("--index", type=click.IntRange(0, 2**32 - 1), required=True, help="sample_index.")
@click.option("--output", type=PATH, help="PNG file [default: MODEL-INDEX.png].")
@device_option
def sample(index: int, output: Path | None, device: str, **values: Any) -> None:  # noqa: ANN401
    """Make one image again, by its sample_index; its whole batch is computed, as in a run."""
    from evalsuite.artifacts.images import encode_png, pixel_sha256
    from evalsuite.artifacts.storage import Storage
    from evalsuite.cli.output import notice, write_file
    from evalsuite.cli.resolve import plan_options_of
    from evalsuite.pipeline.fetching import plan_items
    from evalsuite.pipeline.generation import BatchSampler
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.plan import check_count, resolve_plan

    options = plan_options_of(values)
    resolved = resolve_plan(options)
    if options.weights.lock is not None:
        options.weights.lock.check(plan_items(resolved))
    check_count(resolved, index + 1, values["replicate"])
    target = output or Path(f"{resolved.preset.name}-{index}.png")
    Storage(target.resolve().parent).check_writable()
    for text in resolved.notices:
        notice(text)
    sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device(device))
    batch_index, slot = divmod(index, resolved.plan.batch_size)
    rows = sampler.batch(batch_index).rows
    image = rows.images_NHWC[slot]
    write_file(target, encode_png(image))
    kind = "prompt" if resolved.plan.text else "label"
    click.echo(
        f"{target}  sample {index}  seed {rows.seeds[slot]}  {kind} {rows.labels[slot]}"
        f"  pixel_sha256 {pixel_sha256(image)}"
    )
