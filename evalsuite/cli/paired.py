"""`evaluate --paired-with`: reconstructions against their originals."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evalsuite.cli.options import PATH, PLACE
from evalsuite.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

    from evalsuite.artifacts.references import Reference
    from evalsuite.artifacts.samples import SampleSet
    from evalsuite.artifacts.storage import Place
    from evalsuite.pipeline.measure import Backend, Measure
    from evalsuite.pipeline.paired import Pairs

F = TypeVar("F", bound=Callable[..., Any])
_EXTRACTOR = "inception-2015-12-05"
"""Of rFID, where neither a protocol nor an option names another."""


def paired_options(function: F) -> F:
    """`--paired-with` and what only it uses."""
    for option in (
        click.option(
            "--lpips-weights",
            type=PATH,
            multiple=True,
            metavar="FILE",
            help="For LPIPS with --paired-with; repeat for each file.",
        ),
        click.option(
            "--paired-with",
            type=PLACE,
            metavar="ORIGINALS",
            help="SAMPLES are reconstructions of these, image by image: rFID, PSNR, SSIM, LPIPS.",
        ),
    ):
        function = option(function)
    return function


def score_pairs(
    paths: "tuple[Place, ...]", values: dict[str, Any]
) -> tuple[Any, dict[str, Any], Callable[[], None]]:
    """Records, facts for --json, and what prints them.

    Raises:
        UsageError: options that do not go together.
        DataError: sets that are no pairs, or images or weights that cannot be used.
    """
    from evalsuite.cli.output import metrics_table
    from evalsuite.features.lpips.files import load_lpips
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.paired import pair
    from evalsuite.pipeline.reconstructions import first_pairs, score_reconstructions
    from evalsuite.runtime.machine import default_cpu_workers

    _check_options(paths, values)
    pairwise, with_fid = _metric_names(values)
    device = resolve_device("cpu" if values["device"] == "cpu" else "auto")
    pairs = first_pairs(
        pair(_opened(paths[0], values), _opened(values["paired_with"], values)),
        values["num_samples"],
    )
    measures = _measures(values, pairs, device) if with_fid else []
    lpips = load_lpips(values["lpips_weights"], device) if "lpips" in pairwise else None
    records, found = score_reconstructions(
        pairs, pairwise, measures, device, lpips, default_cpu_workers()
    )
    facts = {
        "plan_id": None,
        "num_samples": pairs.num_pairs,
        "samples": str(paths[0]),
        "paired_with": str(values["paired_with"]),
        "paired_by": pairs.paired_by,
        "num_identical": found.num_identical,
    }

    def show() -> None:
        metrics_table(records)
        identical = f"{found.num_identical} of them identical in every pixel"
        click.echo(f"{pairs.num_pairs} pairs by {pairs.paired_by}, {identical}")

    return records, facts, show


def _check_options(paths: "tuple[Place, ...]", values: dict[str, Any]) -> None:
    if values["paired_with"] is None:
        raise UsageError("--lpips-weights is for reconstructions: give --paired-with ORIGINALS")
    if len(paths) > 1:
        raise UsageError("--paired-with takes one set of SAMPLES")
    if values["reference"] is not None:
        raise UsageError(
            "with --paired-with the originals are the reference: leave --reference out"
        )
    if values.get("declare"):
        raise UsageError("--declare is of sampling, which reconstructions have none of")
    originals = values["paired_with"]
    if isinstance(originals, Path) and not originals.exists():
        raise DataError(f"--paired-with {originals} does not exist")


def _metric_names(values: dict[str, Any]) -> tuple[list[str], bool]:
    """Metrics of pairs, and whether rFID is wanted.

    Raises:
        UsageError: other metrics, or LPIPS and its weights not together.
    """
    from evalsuite.pipeline.paired import PAIRED_METRICS, parse_paired_metrics

    has_lpips = bool(values["lpips_weights"])
    if values["metrics"] is None:
        return parse_paired_metrics(None, has_lpips=has_lpips), True
    listed = [name.strip() for name in values["metrics"].split(",") if name.strip()]
    asked = ["fid" if name == "rfid" else name for name in listed]
    if not asked:
        raise UsageError("--metrics names no metric")
    for name in asked:
        if name not in (*PAIRED_METRICS, "fid"):
            raise UsageError(
                f"{name} is no metric of pairs, which are psnr, ssim, lpips and fid: leave it out,"
                " or give the originals as --reference instead"
            )
    of_pairs = ",".join(name for name in asked if name in PAIRED_METRICS)
    pairwise = parse_paired_metrics(of_pairs, has_lpips=has_lpips)
    if has_lpips and "lpips" not in pairwise:
        raise UsageError("--lpips-weights is given, but lpips is not among --metrics")
    return pairwise, "fid" in asked


def _opened(place: "Place", values: dict[str, Any]) -> "SampleSet":
    """Images with the pixels that a run stored, or that lie there; `--resize` is for both sets."""
    from evalsuite.artifacts.run_directory import RunDirectory, is_run
    from evalsuite.artifacts.samples import local_samples, open_samples
    from evalsuite.cli.output import notice
    from evalsuite.pipeline.evaluation import check_scorable, samples_of_run

    if is_run(place):
        if values["resize"] is not None:
            raise UsageError(f"--resize is for outside samples, but {place} is a run")
        run = RunDirectory.open(place)
        check_scorable(run)
        return samples_of_run(run, values["num_samples"] or run.num_asked())
    path = local_samples(place, notice)
    return open_samples(path, resize=values["resize"], convert_rgb=values["convert_rgb"])


def _measures(values: dict[str, Any], pairs: "Pairs", device: "torch.device") -> "list[Measure]":
    """FID by each named protocol, against the originals."""
    from evalsuite.cli.resolve import extractor_of
    from evalsuite.config import ProtocolSpec, load_spec
    from evalsuite.pipeline.measure import Measure, protocol_named

    reference = _reference(values, pairs)
    names = [n.strip() for n in (values["protocol"] or "").split(",") if n.strip()] or [None]
    measures = []
    for name in names:
        own = load_spec(ProtocolSpec, name).extractor if name else None
        extractor = values["extractor"] or own or _EXTRACTOR
        spec = extractor_of(extractor, values["extractor_weights"])
        protocol = protocol_named(name, spec)
        backend: Backend = values["backend"] or "torch"
        measures.append(Measure(spec, reference, ["fid"], device, protocol, backend))
    return measures


def _reference(values: dict[str, Any], pairs: "Pairs") -> "Reference":
    """The originals; their features are remembered when all of what lies there is used."""
    from evalsuite.artifacts.run_directory import is_run
    from evalsuite.artifacts.samples import local_samples
    from evalsuite.pipeline.reconstructions import reference_of

    place = values["paired_with"]
    is_whole = not is_run(place) and values["num_samples"] is None
    return reference_of(pairs.originals, local_samples(place) if is_whole else None)
