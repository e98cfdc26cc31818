"""`evalsuite sample`: one image again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, device_option, plan_options
from evalsuite.errors import UsageError

if TYPE_CHECKING:
    import torch

    from evalsuite.pipeline.plan import ResolvedPlan


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite sample --model pixnerd-digits --index 3\n"
    "  evalsuite sample --model pixnerd-digits --index 12345 --guidance-scale 2 --output seven.png"
)
@plan_options
@click.option("--index", type=click.IntRange(0, 2**32 - 1), required=True, help="sample_index.")
@click.option("--output", type=PATH, help="PNG file [default: MODEL-INDEX.png].")
@click.option("--yes", is_flag=True, help="Do more than an hour of work without a GPU.")
@device_option
def sample(
    index: int,
    output: Path | None,
    device: str,
    yes: bool,
    **values: Any,  # noqa: ANN401 - click passes each option
) -> None:
    """Make one image again, by its sample_index; its whole batch is computed, as in a run."""
    from evalsuite.artifacts.images import encode_png, pixel_sha256
    from evalsuite.artifacts.storage import LocalStorage
    from evalsuite.cli.output import write_file
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
    LocalStorage(target.resolve().parent).check_writable()
    chosen = resolve_device(device)
    _announce(resolved, chosen, is_confirmed=yes)
    sampler = BatchSampler(resolved.plan, resolved.materials, chosen)
    batch_index, slot = divmod(index, resolved.plan.batch_size)
    rows = sampler.batch(batch_index).rows
    image = rows.images_NHWC[slot]
    write_file(target, encode_png(image))
    kind = "prompt" if resolved.plan.text else "label"
    click.echo(
        f"{target}  sample {index}  seed {rows.seeds[slot]}  {kind} {rows.labels[slot]}"
        f"  pixel_sha256 {pixel_sha256(image)}"
    )


def _announce(resolved: "ResolvedPlan", device: "torch.device", *, is_confirmed: bool) -> None:
    """Say what is about to be computed, and refuse hours of it without a GPU."""
    from evalsuite.cli.output import duration, notice
    from evalsuite.pipeline.estimate import HOUR_S, nearest_rate
    from evalsuite.sampling.describe import nfe_of

    plan, preset = resolved.plan, resolved.preset
    nfe = nfe_of(plan)
    rate = nearest_rate(Path("runs") / preset.name, plan, preset, device.type)
    seconds = rate.seconds_per_evaluation * plan.batch_size * (nfe or 1) if rate else None
    if seconds is not None and seconds > HOUR_S and device.type == "cpu" and not is_confirmed:
        assert rate is not None
        raise UsageError(
            f"this is about {duration(seconds)} of work on a machine without GPU ({rate.source}):"
            " add --yes to do it, or lower --num-steps or --batch-size (each is another plan)"
        )
    for text in resolved.notices:
        notice(text)
    if plan.has_random_weights:
        notice("RANDOM WEIGHTS: the image is noise, good for a try")
    evaluations = f", NFE {nfe}" if nfe else ""
    took = f"about {duration(seconds)}" if seconds is not None else "no speed is known here"
    notice(f"computing one batch of {plan.batch_size} images{evaluations}: {took}")
