"""`evalsuite verify`: are the bytes of a run what they should be?"""

from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, PLACE, device_option
from evalsuite.errors import CorruptionError, ReproducibilityError

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place

_SHOWN = 5


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite verify runs/pixnerd-digits-a1b2c3d4\n"
    "  evalsuite verify runs/pixnerd-digits-a1b2c3d4 --num-batches 10"
)
@click.argument("run", type=PLACE)
@click.option(
    "--num-batches",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Random batches to recompute.",
)
@click.option("--weights", metavar="WEIGHTS", help="When they are not the preset's.")
@click.option("--guide-weights", metavar="WEIGHTS", help="The guide's, of an autoguided run.")
@click.option("--text-encoder", type=PATH, help="Folder of the text encoder.")
@click.option("--model", help="Preset, when the run's own is not known here.")
@click.option("--trust-remote-code", is_flag=True, help="Run the code that the plan names.")
@click.option("--offline", is_flag=True, help="Look nothing up.")
@device_option
def verify(
    run: "Place",
    num_batches: int,
    device: str,
    trust_remote_code: bool,
    **request: Any,  # noqa: ANN401 - the fields of RerunRequest
) -> None:
    """Check every committed file against its receipt, and recompute some batches.

    Within one numerics_id the pixels must be equal; across, the differences are shown.
    """
    from evalsuite.artifacts.run_directory import CONDITIONS, IMAGES, RunDirectory, gaps_of
    from evalsuite.cli.resolve import go_offline
    from evalsuite.pipeline.generation import BatchSampler
    from evalsuite.pipeline.integrity import (
        check_batch,
        choose_batches,
        find_faults,
        foreign_files,
        stages_of,
    )
    from evalsuite.pipeline.materials import RerunRequest, materials_of
    from evalsuite.pipeline.numerics import resolve_device

    if request["offline"]:
        go_offline()
    directory = RunDirectory.open(run)
    faults = find_faults(directory, hash_all=True)
    for name in foreign_files(directory):
        click.echo(f"foreign: {name} is no receipt by its name: it is left alone")
    for fault in faults:
        click.echo(f"fault: {fault.text}")
    if faults:
        raise CorruptionError(
            f"{run}: {len(faults)} committed shard(s) are damaged or missing;"
            " run the same `evalsuite run` or `generate` again to repair them, with --hash-all if"
            " it finds nothing; receipts of samples that it does not ask for you may delete"
        )
    click.echo(f"files: all of {', '.join(stages_of(directory)) or 'nothing'} match their receipts")
    asked = directory.num_asked() if directory.storage.names("attempts", ".json") else 0
    stop = directory.plan.batch_size * -(-asked // directory.plan.batch_size)
    spans = [(r.start, r.stop) for r in directory.spans(IMAGES)]
    gaps = ", ".join(f"{low}..{high - 1}" for low, high in gaps_of(spans, 0, stop)[:6])
    if gaps:
        click.echo(f"not made yet: samples {gaps}")
    batches = choose_batches(directory, num_batches)
    if not batches:
        return
    materials = materials_of(
        directory.manifest, RerunRequest(trust_code=trust_remote_code, **request)
    )
    cache = directory.root / CONDITIONS
    sampler = BatchSampler(directory.plan, materials, resolve_device(device), cache)
    wrong: list[int] = []
    for batch in batches:
        check = check_batch(directory, sampler, batch)
        verdict = "equal" if not check.differing else f"{len(check.differing)} samples differ"
        scope = "" if check.same_numerics else ", other numerics"
        distance = (
            ""
            if check.max_difference is None or not check.differing
            else f", {check.max_difference} grey levels at most, mean {check.mean_difference:.4f}"
        )
        click.echo(
            f"batch {batch} (samples {check.start}..{check.stop - 1}): {verdict}{scope}{distance}"
        )
        wrong += check.differing if check.same_numerics else ()
    if wrong:
        raise ReproducibilityError(
            f"{run}: samples {_listed(wrong)} came out with other pixels on equal numerics:"
            f" {_likely_cause(directory.plan.family)}"
        )


def _listed(samples: list[int]) -> str:
    more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
    return ", ".join(map(str, samples[:_SHOWN])) + more


def _likely_cause(family: str) -> str:
    if family.startswith("python:"):
        return (
            f"most likely {family} draws random numbers elsewhere than from `generators`, or keeps"
            " something between batches"
        )
    return "the receipts or this machine are wrong"
