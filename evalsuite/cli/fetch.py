"""`evalsuite fetch`: on a machine with a network, bring what a run on one without it will open."""

from pathlib import Path
from typing import Any

import click

from evalsuite.cli.options import PATH, plan_options
from evalsuite.errors import UsageError


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite fetch --model pixnerd-xl-256\n"
    "  evalsuite fetch --model pixnerd-xxl-t2i --prompts mine.txt --output t2i.lock.json"
)
@plan_options
@click.option("--benchmark", metavar="NAME|FILE.yaml", help="Its prompts and other files.")
@click.option("--reference", metavar="NAME|PATH", help="Real data that the run compares with.")
@click.option("--extractor", metavar="NAME", help="Feature extractor.")
@click.option("--extractor-weights", metavar="PATH|hub:REPO", help="Its weights.")
@click.option("--protocol", metavar="LIST", help="Named protocols [default: the preset's].")
@click.option("--metrics", metavar="LIST", help="Metrics that the run computes.")
@click.option(
    "--allow-unverified", is_flag=True, help="Take references whose SHA-256 nobody has published."
)
@click.option(
    "--output",
    type=PATH,
    default=Path("evalsuite.lock.json"),
    show_default=True,
    help="Lock file with the hash of everything.",
)
def fetch(output: Path, allow_unverified: bool, **values: Any) -> None:  # noqa: ANN401
    """Bring and check everything that the same `run` would open, and write a lock file.

    Give the options of the run. Files of a hub go into the hub client's cache, references and an
    extractor's weights into evalsuite's, which the nodes must share or be given; the lock file pins
    revisions and hashes: `run --offline --lock FILE`.
    """
    from evalsuite.artifacts.storage import LocalStorage
    from evalsuite.cli.downloading import fetched_benchmark
    from evalsuite.cli.measuring import fetch_for, measures_of
    from evalsuite.cli.output import notice
    from evalsuite.cli.prepare import with_prompts
    from evalsuite.cli.resolve import extractor_of, plan_options_of
    from evalsuite.pipeline.fetching import fetched_items
    from evalsuite.pipeline.lock import Lock, write_lock
    from evalsuite.pipeline.plan import resolve_plan

    if output.is_dir():
        raise UsageError(f"--output {output} is a folder: give the name of a lock file")
    LocalStorage(output.resolve().parent).check_writable()
    benchmark = fetched_benchmark(values, allow_unverified=allow_unverified)
    values = with_prompts(values)
    resolved = resolve_plan(plan_options_of(values))
    for text in resolved.notices:
        notice(text)
    preset, size = resolved.preset, resolved.plan.size
    measures = []
    if fetch_for(values, size, preset.evaluation, allow_unverified=allow_unverified):
        measures = measures_of({**values, "device": "cpu"}, size, preset.evaluation)
    specs = [measure.spec for measure in measures]
    if not specs and values["extractor"] is not None:
        specs = [extractor_of(values["extractor"], values["extractor_weights"])]
    references = [m.reference for m in measures if m.reference is not None]
    items = (
        *fetched_items(resolved, references, specs, values["extractor_weights"]),
        *benchmark,
    )
    for item in items:
        where = f"{item.repo}@{(item.revision or '')[:8]}" if item.repo else "on this machine"
        click.echo(f"{item.what:13} {item.name}  {item.sha256[:12]}  {where}")
    write_lock(output, Lock(model=preset.name, items=items))
    click.echo(f"{'lock file':13} {output}")
