"""`evalsuite evaluate`: score samples, whoever made them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from evalsuite.cli.options import PATH, POSITIVE, device_option, measure_options
from evalsuite.cli.paired import paired_options
from evalsuite.errors import DataError, UsageError

_Scored = tuple[Any, dict[str, Any], Callable[[], None]]
"""Records, facts for --json, and what prints them."""


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite evaluate runs/pixnerd-digits-a1b2c3d4 --num-samples 1000\n"
    "  evalsuite evaluate samples.npz --reference digits-16-train --extractor digits-convnet"
)
@click.argument("samples", nargs=-1, required=True, type=PATH)
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
@paired_options
@device_option
@measure_options
def evaluate(samples: tuple[Path, ...], **values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Score SAMPLES: a run, an ADM-style NPZ, a folder of images, or Parquet shards.

    Several runs are replicates of one plan: each is scored, and the mean is given; runs that
    share samples are refused.
    """
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.cli.paired import score_pairs
    from evalsuite.pipeline.evaluation import check_disjoint, check_scorable, payload

    check_json_target(values["json_path"])
    for path in samples:
        if not path.exists():
            raise DataError(f"{path} does not exist: give a run, an NPZ, a folder or Parquet")
    began = time.monotonic()
    are_runs = [(path / "manifest.json").is_file() for path in samples]
    if values["paired_with"] is not None or values["lpips_weights"]:
        records, facts, show = score_pairs(samples, values)
    elif len(samples) > 1 and not all(are_runs):
        raise UsageError("several SAMPLES must all be runs: replicates of one plan")
    elif not are_runs[0]:
        records, facts, show = _score_outside(samples[0], values)
    else:
        runs = [RunDirectory.open(path) for path in samples]
        for run in runs:
            check_scorable(run)
        counts = [values["num_samples"] or run.num_asked() for run in runs]
        if len(runs) > 1:
            if len(set(counts)) > 1:
                raise UsageError(
                    f"the runs hold {counts} samples: give --num-samples that all have"
                )
            check_disjoint(runs, counts[0])
        records, facts, show = _score_runs(runs, counts[0], values)
    total = time.monotonic() - began
    facts |= {
        "seconds": {"total": round(total, 3)},
        "images_per_second": round(facts["num_samples"] / total, 3),
    }
    if values["json_path"]:
        write_json(values["json_path"], payload(records, facts))
    show()  # last: whoever reads stdout may go away


def _score_outside(path: Path, values: dict[str, Any]) -> _Scored:
    from evalsuite.artifacts.samples import open_samples
    from evalsuite.cli.measuring import measures_of
    from evalsuite.cli.output import metrics_tables
    from evalsuite.pipeline.evaluation import score_samples
    from evalsuite.runtime.machine import default_cpu_workers

    samples = open_samples(path, resize=values["resize"], convert_rgb=values["convert_rgb"])
    measures = measures_of(values, samples.size, None)
    scored = score_samples(samples, measures, values["num_samples"], default_cpu_workers())
    records = [one.record for one in scored]
    facts: dict[str, Any] = {"plan_id": None, "num_samples": records[0].protocol.num_samples}
    return records, facts | {"samples": str(path)}, lambda: metrics_tables(records)


def _score_runs(runs: list[Any], num_samples: int, values: dict[str, Any]) -> _Scored:
    from evalsuite.cli.measuring import measures_of
    from evalsuite.config import ModelPreset, load_spec, names_of
    from evalsuite.pipeline.evaluation import mean_of_replicates, payload, score_run
    from evalsuite.report.html import write_report

    model = runs[0].manifest.model
    known = model in names_of(ModelPreset)
    defaults = load_spec(ModelPreset, model).evaluation if known else None
    measures = measures_of(values, runs[0].plan.size, defaults)
    scored = []
    for run in runs:
        scored.append([r for measure in measures for r in score_run(run, measure, num_samples)])
        write_report(run)
    means = mean_of_replicates(scored) if len(runs) > 1 else []
    facts: dict[str, Any] = {
        "plan_id": runs[0].manifest.plan_id,
        "num_samples": num_samples,
        "run": [str(run.root) for run in runs],
    }
    if means:
        facts["replicates"] = {
            mean.metric: {"mean": mean.mean, "standard_error": mean.standard_error}
            for mean in means
        }
        facts["runs"] = [
            payload(records, {"run": str(run.root)})
            for run, records in zip(runs, scored, strict=True)
        ]
    return scored[0], facts, lambda: _show_runs(runs, num_samples, scored, means)


def _show_runs(runs: list[Any], num_samples: int, scored: list[Any], means: list[Any]) -> None:
    from evalsuite.cli.output import metrics_tables
    from evalsuite.report.summary import paste_line

    for run, records in zip(runs, scored, strict=True):
        metrics_tables(records)
        click.echo(paste_line(run.plan, run.manifest.model, num_samples, records))
    for mean in means:
        error = "-" if mean.standard_error is None else f"{mean.standard_error:.4f}"
        click.echo(
            f"mean over {mean.num_runs} replicates: {mean.display} {mean.mean:.4f} ± {error}"
        )
