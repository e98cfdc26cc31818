"""`evalsuite evaluate`: score samples, whoever made them."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PLACE, POSITIVE, device_option, measure_options
from evalsuite.cli.paired import paired_options
from evalsuite.cli.table_format import table_format_option
from evalsuite.errors import CorruptionError, DataError, IncompleteError, UsageError

if TYPE_CHECKING:
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.artifacts.storage import Place
    from evalsuite.pipeline.measure import Measure

_Scored = tuple[Any, dict[str, Any], Callable[[], None]]
"""Records, facts for --json, and what prints them."""


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite evaluate runs/pixnerd-digits-a1b2c3d4 --num-samples 1000\n"
    "  evalsuite evaluate samples.npz --reference digits-16-train --extractor digits-convnet"
)
@click.argument("samples", nargs=-1, required=True, type=PLACE)
@click.option("--num-samples", type=POSITIVE, help="Score the first N only [default: all].")
@click.option(
    "--resize", metavar="RULE", help="Of samples: adm-crop:256, torchvision-crop:256, bicubic:256."
)
@click.option("--convert-rgb", is_flag=True, help="Let grey and palette pictures become RGB.")
@click.option(
    "--backend",
    type=click.Choice(["torch", "tensorflow"]),
    help="tensorflow runs ADM's very graph, in a process of its own [default: torch].",
)
@click.option(
    "--declare",
    multiple=True,
    metavar="FIELD=VALUE",
    help="State labels, uint8 or codec of samples, kept as declared, not verified.",
)
@click.option("--num-workers", type=POSITIVE, help="[default: all cores or GPUs, if it is long].")
@click.option("--address", metavar="ADDR", help="Ray: local, auto or host:port [default: local].")
@paired_options
@device_option
@measure_options
@table_format_option
def evaluate(samples: "tuple[Place, ...]", **values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Score SAMPLES: a run, an ADM-style NPZ, a folder of images, or Parquet shards.

    Several runs are replicates of one plan: each is scored, and the mean is given; runs that
    share samples are refused. Features of other samples are kept in this machine's cache: the same
    command goes on where it was stopped, and a second one extracts nothing.
    """
    from evalsuite.artifacts.run_directory import is_run
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.cli.paired import score_pairs
    from evalsuite.pipeline.evaluation import payload

    check_json_target(values["json_path"])
    for place in samples:
        if isinstance(place, Path) and not place.exists():
            raise DataError(f"{place} does not exist: give a run, an NPZ, a folder or Parquet")
    if values["table_format"] is not None and len(samples) > 1:
        raise UsageError("--format is for one set of samples: give each run by itself")
    began = time.monotonic()
    are_runs = [is_run(place) for place in samples]
    if values["paired_with"] is not None or values["lpips_weights"]:
        records, facts, show = score_pairs(samples, values)
    elif len(samples) > 1 and not all(are_runs):
        raise UsageError("several SAMPLES must all be runs: replicates of one plan")
    elif not are_runs[0]:
        records, facts, show = _score_outside(samples[0], values)
    else:
        runs, count = _opened_runs(samples, values)
        records, facts, show = _score_runs(runs, count, values)
    total = time.monotonic() - began
    facts |= {
        "seconds": {"total": round(total, 3)},
        "images_per_second": round(facts["num_samples"] / total, 3),
    }
    if values["json_path"]:
        write_json(values["json_path"], payload(records, facts))
    if values["table_format"] is not None:
        _print_table(records, values["table_format"])
        return
    show()  # last: whoever reads stdout may go away


def _print_table(records: Any, table_format: str) -> None:  # noqa: ANN401
    from evalsuite.report.tables import TableFormat, metrics_as_table, render

    click.echo(render([metrics_as_table(records)], TableFormat(table_format)), nl=False)


def _opened_runs(paths: "tuple[Place, ...]", values: dict[str, Any]) -> tuple[list[Any], int]:
    """Runs that may be scored together, and of how many samples."""
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.pipeline.evaluation import check_disjoint, check_scorable

    if values["declare"]:
        raise UsageError("--declare: a run's plan says how its samples were made")
    for name in ("num_workers", "address", "resize", "convert_rgb"):
        if values[name]:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is of no use for a run: its pixels and features are its own")
    runs = [RunDirectory.open(path) for path in paths]
    for run in runs:
        check_scorable(run)
    counts = [values["num_samples"] or run.num_asked() for run in runs]
    if len(set(counts)) > 1:
        raise UsageError(f"the runs hold {counts} samples: give --num-samples that all have")
    if len(runs) > 1:
        check_disjoint(runs, counts[0])
    return runs, counts[0]


def _score_outside(place: "Place", values: dict[str, Any]) -> _Scored:
    from evalsuite.artifacts.samples import local_samples, open_samples
    from evalsuite.cli.measuring import measures_of
    from evalsuite.cli.output import ProgressView, notice
    from evalsuite.pipeline.comparability import declare, parse_declarations
    from evalsuite.pipeline.evaluation import score_samples
    from evalsuite.pipeline.source import Source
    from evalsuite.runtime.cluster import JOB_ADDRESS
    from evalsuite.runtime.extraction import OutsideExtraction
    from evalsuite.runtime.machine import default_cpu_workers
    from evalsuite.runtime.workforce import Workforce

    if values["backend"] == "tensorflow" and (values["num_workers"] or values["address"]):
        raise UsageError(
            "--backend tensorflow has one process of this machine: leave out --num-workers and"
            " --address"
        )
    path = local_samples(place, notice)
    samples = open_samples(path, resize=values["resize"], convert_rgb=values["convert_rgb"])
    declared = parse_declarations(values["declare"])
    if samples.codec is not None and "codec" in declared:
        raise UsageError(f"--declare codec: of {place} it is known to be {samples.codec}")
    measures = measures_of(values, samples.size, None)
    source = Source(path.absolute(), values["resize"], values["convert_rgb"])
    address = values["address"] or os.environ.get(JOB_ADDRESS)
    workforce = Workforce(values["num_workers"], address, values["device"])
    with ProgressView() as view:
        extraction = OutsideExtraction(source, workforce, view.show, notice)
        scored = score_samples(
            samples, measures, values["num_samples"], default_cpu_workers(), extraction
        )
    records = declare([one.record for one in scored], declared)
    facts = {
        "plan_id": None,
        "num_samples": records[0].protocol.num_samples,
        "samples": str(place),
        "features": [asdict(report) for report in extraction.reports],
    }
    in_part = {report.read_in_part for report in extraction.reports if report.read_in_part}
    return records, facts, lambda: _show_outside(records, declared, sorted(in_part))


def _show_outside(records: list[Any], declared: dict[str, str], remarks: list[str]) -> None:
    from evalsuite.cli.output import metrics_tables

    metrics_tables(records)
    for remark in remarks:
        click.echo(f"samples: {remark}")
    for field, value in declared.items():
        click.echo(f"{field}: {value} (declared, not verified)")


def _score_runs(runs: list[Any], num_samples: int, values: dict[str, Any]) -> _Scored:
    from evalsuite.cli.measuring import measures_of
    from evalsuite.config import ModelPreset, load_spec, names_of
    from evalsuite.pipeline.evaluation import mean_of_replicates, payload, score_run_by

    model = runs[0].manifest.model
    known = model in names_of(ModelPreset)
    defaults = load_spec(ModelPreset, model).evaluation if known else None
    measures = measures_of(values, runs[0].plan.size, defaults)
    scored = []
    for run in runs:
        run.storage.check_writable()  # before the work: its records and report go there
    for run in runs:
        with _saying_what_to_resubmit(run, measures, num_samples):
            scored.append(score_run_by(run, measures, num_samples))
        _report(run)
    means = mean_of_replicates(scored) if len(runs) > 1 else []
    facts: dict[str, Any] = {
        "plan_id": runs[0].manifest.plan_id,
        "num_samples": num_samples,
        "run": [str(run.root) for run in runs],
    }
    several = len(measures) > 1
    if means:
        facts["replicates"] = {
            f"{mean.protocol_name}:{mean.metric}" if several else mean.metric: {
                "mean": mean.mean,
                "standard_error": mean.standard_error,
            }
            for mean in means
        }
        facts["runs"] = [
            payload(records, {"run": str(run.root)})
            for run, records in zip(runs, scored, strict=True)
        ]
    return scored[0], facts, lambda: _show_runs(runs, num_samples, scored, means)


def _report(run: "RunDirectory") -> None:
    """Write the report, which shows the whole run: damage beyond what was scored is said."""
    from evalsuite.cli.output import notice
    from evalsuite.report.html import write_report

    try:
        write_report(run)
    except CorruptionError as error:
        notice(f"no report was written: {error}")


@contextlib.contextmanager
def _saying_what_to_resubmit(
    run: "RunDirectory", measures: "Sequence[Measure]", num_samples: int
) -> Iterator[None]:
    """Of a run that a job array makes, say which of its tasks are missing."""
    from evalsuite.pipeline.shares import hint_of_missing_shares

    try:
        yield
    except IncompleteError as error:
        needed = {measure.spec.extractor_id for measure in measures}
        hint = hint_of_missing_shares(run, num_samples, needed)
        if hint is None:
            raise
        raise IncompleteError(f"{error}; {hint}") from error


def _show_runs(runs: list[Any], num_samples: int, scored: list[Any], means: list[Any]) -> None:
    from evalsuite.cli.output import metrics_tables
    from evalsuite.report.summary import by_protocol, paste_line

    for run, records in zip(runs, scored, strict=True):
        metrics_tables(records)
        for part in by_protocol(records):
            click.echo(paste_line(run.plan, run.manifest.model, num_samples, part))
    for mean in means:
        error = "-" if mean.standard_error is None else f"{mean.standard_error:.4f}"
        click.echo(
            f"mean over {mean.num_runs} replicates: {mean.display} {mean.mean:.4f} ± {error}"
            f" (protocol {mean.protocol_name})"
        )
