"""`evalsuite status`: what a run holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH

if TYPE_CHECKING:
    from evalsuite.artifacts.receipts import ReceiptHead


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite status runs/pixnerd-digits-a1b2c3d4\n"
    "  watch evalsuite status runs/pixnerd-digits-a1b2c3d4"
)
@click.argument("run", type=PATH)
def status(run: Path) -> None:
    """Show how many samples each stage of RUN has, what is missing, and what it cost so far."""
    from evalsuite.artifacts.receipts import NO_END, cover
    from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, gaps_of
    from evalsuite.cli.output import duration
    from evalsuite.pipeline.integrity import stages_of

    directory = RunDirectory.open(run)
    attempts = directory.read_json_folder("attempts")
    asked = directory.num_asked() if attempts else 0
    size = directory.plan.batch_size
    stop = -(-asked // size) * size
    click.echo(f"model   {directory.manifest.model}")
    click.echo(f"plan    {directory.manifest.plan_id}")
    click.echo(f"asked   {asked} samples, stored in whole batches of {size}")
    for stage in stages_of(directory) or [IMAGES]:
        receipts = directory.committed(stage)
        spans = [(part.start, part.stop) for part in cover(receipts, 0, NO_END)]
        done = sum(high - low for low, high in spans)
        gaps = gaps_of(spans, 0, stop)
        lacking = ", ".join(f"{low}..{high - 1}" for low, high in gaps[:4]) + (
            ", ..." if gaps[4:] else ""
        )
        click.echo(
            f"{stage}: {done} samples in {len(receipts)} shards, "
            + (f"missing {lacking}" if gaps else "complete")
        )
    images = directory.committed(IMAGES)
    seconds = sum(receipt.seconds.get("compute", 0.0) for receipt in images)
    click.echo(f"cost    {duration(seconds)} of workers' time in {len(attempts)} invocations")
    for attempt in sorted(attempts, key=lambda attempt: str(attempt["started_at"])):
        click.echo(f"        {attempt['started_at']}  {_said(attempt, images)}")


def _said(attempt: dict[str, Any], images: "Sequence[ReceiptHead]") -> str:
    """What became of an invocation; of one that noted no end, what it has committed."""
    if attempt["outcome"] != "running":
        return f"{attempt['images_made']} images  {attempt['outcome']}"
    own = [r for r in images if r.attempt_id.startswith(f"{attempt['invocation_id']}-")]
    count = sum(receipt.stop - receipt.start for receipt in own)
    last = f", last at {max(receipt.created_at for receipt in own)}" if own else ""
    return f"{count} images committed{last}  no end noted: still running, or killed"
