"""`evalsuite status`: what a run holds."""

from pathlib import Path

import click

from evalsuite.cli.options import PATH


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
        receipts = directory.receipts(stage)
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
    seconds = sum(r.seconds.get("compute", 0.0) for r in directory.receipts(IMAGES))
    click.echo(f"cost    {duration(seconds)} of workers' time in {len(attempts)} invocations")
    for attempt in attempts:
        click.echo(
            f"        {attempt['started_at']}  {attempt['images_made']} images"
            f"  {attempt['outcome']}"
        )
