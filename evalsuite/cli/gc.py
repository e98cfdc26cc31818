"""`evalsuite gc`: remove what lost attempts left behind."""

from pathlib import Path

import click

from evalsuite.cli.options import PATH


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite gc runs/pixnerd-digits-a1b2c3d4 --dry-run\n"
    "  evalsuite gc runs/pixnerd-digits-a1b2c3d4"
)
@click.argument("run", type=PATH)
@click.option("--dry-run", is_flag=True, help="Only list the files.")
@click.option("--force", is_flag=True, help="Also files of the last hour.")
def gc(run: Path, dry_run: bool, force: bool) -> None:
    """Remove image and feature files of RUN that no receipt names.

    A shard that is being written has no receipt yet, so files of the last hour stay unless --force
    is given; give it when no invocation is working on the run.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.pipeline.integrity import garbage_files

    directory = RunDirectory.open(run)
    everything = garbage_files(directory)
    files = everything if force else garbage_files(directory, older_than_s=3600.0)
    for file in files:
        click.echo(file)
        if not dry_run:
            directory.storage.delete(file)
    kept = len(everything) - len(files)
    young = f"; {kept} kept, younger than an hour: --force removes them too" if kept else ""
    click.echo(f"{len(files)} files {'would be ' if dry_run else ''}removed{young}")
