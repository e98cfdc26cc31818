"""`evalsuite why`: the cause of a number that does not reproduce."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, PLACE, device_option
from evalsuite.errors import DataError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.diagnosis.findings import Diagnosis, Finding
    from evalsuite.diagnosis.material import Material


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite why runs/pixnerd-digits-a1b2c3d4\n"
    "  evalsuite why samples.npz --claim pixnerd-xl-256 --reference adm-imagenet-256"
)
@click.argument("samples", type=PLACE)
@click.option("--claim", metavar="MODEL", help="What should come out [default: the run's model].")
@click.option("--reference", metavar="NAME|PATH", help="Of the number [default: the model's].")
@click.option("--extractor", metavar="NAME", help="Feature extractor [default: the reference's].")
@click.option("--extractor-weights", metavar="PATH|hub:REPO", help="Its weights.")
@device_option
@click.option("--json", "json_path", type=PATH, help="Write findings and measurements here.")
def why(samples: "Place", **values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Find the cause of a number that does not reproduce, by cheap probes, the likeliest first.

    SAMPLES are a run, an NPZ, a folder of images, or Parquet; at most 2,000 of them are looked at.
    Strength counts in standard deviations of what clean sets show; 5 is the least that is told,
    100 is what is written down. Exit code 0, whether or not something was found. What each probe
    sees and how often it errs stands in docs/why.md.
    """
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.diagnosis.probes import diagnose

    check_json_target(values["json_path"])
    if isinstance(samples, Path) and not samples.exists():
        raise DataError(f"{samples} does not exist: give a run, an NPZ, a folder or Parquet")
    material = _gathered(samples, values)
    found = diagnose(material)
    if values["json_path"] is not None:
        write_json(values["json_path"], _payload(material, found))
    _show(material, found)


def _gathered(samples: "Place", values: dict[str, Any]) -> "Material":
    from evalsuite.artifacts.run_directory import RunDirectory, is_run
    from evalsuite.artifacts.samples import local_samples, open_samples
    from evalsuite.cli.output import notice
    from evalsuite.cli.resolve import extractor_of
    from evalsuite.diagnosis.gathering import (
        comparison_of,
        expected_of,
        gather,
        subject_of_run,
        subject_of_samples,
    )
    from evalsuite.pipeline.numerics import resolve_device

    run = RunDirectory.open(samples) if is_run(samples) else None
    expected = expected_of(values["claim"], run)
    name, weights = values["extractor"], values["extractor_weights"]
    extractor = extractor_of(name, weights) if name else None
    device = resolve_device(values["device"])
    subject = (
        subject_of_run(run)
        if run is not None
        else subject_of_samples(open_samples(local_samples(samples, notice)))
    )
    against = comparison_of(subject, expected, values["reference"], extractor, device)
    return gather(subject, expected, against, device)


def _payload(material: "Material", found: "Diagnosis") -> dict[str, Any]:
    reference, expected = material.reference, material.expected
    return {
        "samples": material.where,
        "num_samples": material.num_samples,
        "num_looked_at": len(material.digests),
        "claim": expected.preset.name if expected else None,
        "reference": reference.name if reference else None,
        "extractor": material.extractor.extractor_id if material.extractor else None,
        "findings": [{"probe": probe, **one._asdict()} for probe, one in found.findings.items()],
        "clear": {probe: one.seen for probe, one in found.clear.items()},
        "cannot_tell": {probe: one.reason for probe, one in found.untold.items()},
        "remarks": list(material.remarks),
    }


def _show(material: "Material", found: "Diagnosis") -> None:
    looked = len(material.digests)
    part = "" if looked == material.num_samples else f" of {material.num_samples:,}"
    _say(f"{material.where}: {looked:,}{part} samples looked at{_against(material)}")
    if not found.findings:
        _say("nothing was found: no probe that could look saw more than clean samples show")
    for place, (probe, one) in enumerate(found.findings.items(), 1):
        _say(f"{place}. {one.name} (probe {probe}, strength {one.strength:.1f}{_effect(one)})")
        _say(f"   {one.evidence}")
        _say(f"   to do: {one.advice}")
    if found.clear:
        _say(f"no sign of these ({len(found.clear)} probes):")
    for probe, clear in found.clear.items():
        _say(f"  {probe}: {clear.seen}")
    if found.untold:
        _say(f"these could not tell ({len(found.untold)} probes):")
    for probe, untold in found.untold.items():
        _say(f"  {probe}: {untold.reason}")
    for remark in material.remarks:
        _say(f"note: {remark}")


def _against(material: "Material") -> str:
    parts = []
    if material.reference is not None:
        parts.append(f"reference {material.reference.name}")
    if material.extractor is not None:
        parts.append(f"extractor {material.extractor.name}")
    if material.expected is not None:
        parts.append(f"settings of {material.expected.preset.name}")
    return f" ({', '.join(parts)})" if parts else ""


def _effect(one: "Finding") -> str:
    return "" if one.effect is None else f", {one.effect:+.3f} of the distance"


def _say(line: str) -> None:
    click.echo(printable(line))
