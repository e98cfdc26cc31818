"""`evalsuite gc`: remove what lost attempts left behind, or kept features of outside samples."""

import time
from typing import TYPE_CHECKING

import click

from evalsuite.cli.options import PLACE
from evalsuite.errors import UsageError

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite gc runs/pixnerd-digits-a1b2c3d4 --dry-run\n"
    "  evalsuite gc --cache"
)
@click.argument("run", type=PLACE, required=False)
@click.option("--cache", is_flag=True, help="Features that `evaluate` keeps, instead of a RUN.")
@click.option("--dry-run", is_flag=True, help="Only list the files.")
@click.option("--force", is_flag=True, help="Also files of the last hour.")
def gc(run: "Place | None", cache: bool, dry_run: bool, force: bool) -> None:
    """Remove image and feature files of RUN that no receipt names, or kept features.

    A shard that is being written has no receipt yet, so files of the last hour, and uploads that
    were begun in the last day, stay unless --force is given; give it when no invocation is working
    on the run. `--cache` removes the features that
    `evaluate` keeps of other people's samples; they are extracted again when they are needed.
    """
    if (run is None) != cache:
        raise UsageError("give a RUN, or --cache for the features that `evaluate` keeps")
    if run is None:
        _remove_features(dry_run=dry_run, force=force)
        return
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.pipeline.integrity import garbage_files

    directory = RunDirectory.open(run)
    everything = garbage_files(directory)
    files = everything if force else garbage_files(directory, older_than_s=3600.0)
    for file in files:
        click.echo(file)
        if not dry_run:
            directory.storage.delete(file)
    age_s = 0.0 if force else 24 * 3600.0  # the store tells when it was begun, not when it grew
    for file in directory.storage.unfinished(age_s):
        click.echo(f"{file}  (unfinished upload)")
    if not dry_run:
        directory.storage.abort_unfinished(age_s)
    kept = len(everything) - len(files)
    young = f"; {kept} kept, younger than an hour: --force removes them too" if kept else ""
    click.echo(f"{len(files)} files {'would be ' if dry_run else ''}removed{young}")


def _remove_features(*, dry_run: bool, force: bool) -> None:
    from evalsuite.artifacts.samples.store_copy import copies, remove_copy
    from evalsuite.cli.output import data_size
    from evalsuite.pipeline.feature_cache import removable_sets, remove_set

    age_s = 0.0 if force else 3600.0
    for copy in copies():
        if time.time() - copy.used_at >= age_s:
            click.echo(f"{copy.folder}  {data_size(copy.num_bytes)}  copied from an object store")
            if not dry_run:
                remove_copy(copy)
    sets = removable_sets(older_than_s=age_s)
    for one in sets:
        samples, extractor = one.about.get("samples", "?"), one.about.get("extractor", "?")
        click.echo(f"{one.folder}  {data_size(one.num_bytes)}  {samples} by {extractor}")
        if not dry_run:
            remove_set(one)
    size = data_size(sum(one.num_bytes for one in sets))
    click.echo(f"{len(sets)} sets of features ({size}) {'would be' if dry_run else 'were'} removed")
