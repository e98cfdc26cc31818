"""`evalsuite run` and `evalsuite generate`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from evalsuite.cli.options import (
    PATH,
    POSITIVE,
    PartType,
    TagType,
    device_option,
    given,
    measure_options,
    plan_options,
)
from evalsuite.errors import StorageError, UsageError

if TYPE_CHECKING:
    from evalsuite.artifacts.records import Record
    from evalsuite.pipeline.estimate import Estimate
    from evalsuite.pipeline.evaluation import Measure
    from evalsuite.runtime.session import SessionRequest, SessionResult

_WORK_OPTIONS = [
    click.option(
        "--num-samples", type=POSITIVE, help="N [default: 50,000 for ImageNet, 2,000 for digits]."
    ),
    click.option(
        "--shard-size", type=POSITIVE, help="Samples of one shard [default: by N and workers]."
    ),
    click.option("--num-workers", type=POSITIVE, help="[default: one for each GPU, or core]."),
    click.option(
        "--address", metavar="ADDR", help="local, auto or host:port of Ray [default: local]."
    ),
    click.option("--part", type=PartType(), help="Only share I of N of the same run."),
    click.option("--output", type=PATH, help="Run directory [default: runs/MODEL-PLAN]."),
    click.option("--images", type=click.Choice(["all", "grid", "none"]), help="Pixels to keep."),
    click.option(
        "--shard-format", type=click.Choice(["parquet", "npz"]), help="[default: parquet]."
    ),
    click.option("--tag", "tags", type=TagType(), multiple=True, help="Noted with the invocation."),
    click.option("--allow-mixed-numerics", is_flag=True, help="Mix kinds of machines; recorded."),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and its cost."),
    click.option("--yes", is_flag=True, help="Do more than an hour of work without a GPU."),
]


def _work_options(function: Any) -> Any:  # noqa: ANN401 - click's decorators
    for option in reversed(_WORK_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class _Prepared:
    """A request that was checked, and what will be measured."""

    request: "SessionRequest"
    measure: "Measure | None"


@dataclass(frozen=True)
class _Forecast:
    """What an invocation would do."""

    cost: "Estimate"
    images_asked: int
    shards_done: int
    shards_missing: int


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite run --model pixnerd-digits\n"
    "  evalsuite run --model pixnerd-digits --num-samples 500 --guidance-scale 2 --num-steps 30"
)
@plan_options
@_work_options
@device_option
@measure_options
def run(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Generate images, compute FID, sFID, IS, precision and recall, and leave a report.

    Keeps the images of a grid and all features; `--images all` keeps every image. Running the
    same command again is free; with a larger --num-samples only the new samples are made.
    """
    prepared = _prepare(values, keep="grid", scoring=True)
    if values["dry_run"]:
        _describe(prepared, values)
        return
    _confirm(prepared, values)
    began = time.monotonic()
    result = _generate(prepared)
    _finish_run(prepared, result, values, began)


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite generate --model pixnerd-digits --num-samples 500\n"
    "  evalsuite generate --model pixnerd-digits --part 1/3 --output runs/shared"
)
@plan_options
@_work_options
@device_option
@click.option("--extractor", metavar="NAME", help="Also keep the features of this extractor.")
@click.option("--extractor-weights", type=PATH, help="Its weights instead of its own.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def generate(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Generate images without scoring; keeps every image unless --images says otherwise."""
    from evalsuite.cli.output import write_json
    from evalsuite.pipeline.evaluation import payload

    prepared = _prepare(values, keep="all", scoring=False)
    if values["dry_run"]:
        _describe(prepared, values)
        return
    _confirm(prepared, values)
    began = time.monotonic()
    result = _generate(prepared)
    _say_made(result)
    click.echo(str(result.run.root))
    if values["json_path"]:
        write_json(values["json_path"], payload([], _facts(prepared, result, began)))


def _prepare(values: dict[str, Any], *, keep: Any, scoring: bool) -> _Prepared:  # noqa: ANN401 - a literal
    """Everything that can be refused before a worker starts."""
    from evalsuite.artifacts.storage import Storage
    from evalsuite.cli.output import check_json_target
    from evalsuite.cli.resolve import extractor_of, plan_options_of
    from evalsuite.pipeline.coverage import Demand
    from evalsuite.pipeline.generation import check_weights
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.plan import check_count, resolve_plan
    from evalsuite.pipeline.stages import OutputFormat
    from evalsuite.runtime.session import SessionRequest

    check_json_target(values["json_path"])
    resolved = resolve_plan(plan_options_of(values))
    preset, plan = resolved.preset, resolved.plan
    num_samples = values["num_samples"] or preset.evaluation.num_samples
    check_count(resolved, num_samples, values["replicate"])
    check_weights(resolved.weights_path, plan.weights_sha256)
    wanted = values["extractor"] or (preset.evaluation.extractor if scoring else None)
    if wanted is None and values["extractor_weights"]:
        raise UsageError("--extractor-weights needs --extractor")
    spec = extractor_of(wanted, values["extractor_weights"]) if wanted else None
    if spec is not None and spec.input_size not in {None, plan.size}:
        raise UsageError(
            f"extractor {spec.name} takes images of {spec.input_size}, not {plan.size}"
        )
    shard_format: Literal["parquet", "npz"] = values["shard_format"] or "parquet"
    if shard_format == "npz":
        if values["images"] not in {None, "all"}:
            raise UsageError("--shard-format npz holds every image: use it with --images all")
        keep = "all"
    if values["address"] in {None, "local"}:
        resolve_device(values["device"])
    root = values["output"] or Path("runs") / f"{preset.name}-{plan.plan_id[:8]}"
    Storage(root)
    request = SessionRequest(
        resolved=resolved,
        demand=Demand(
            num_samples, values["part"], values["images"] or keep, (spec,) if spec else ()
        ),
        root=root,
        output=OutputFormat(values["images"] or keep, shard_format),
        shard_size=values["shard_size"],
        device=values["device"],
        address=values["address"],
        num_workers=values["num_workers"],
        allow_mixed_numerics=values["allow_mixed_numerics"],
        asked=given(values),
        tags=dict(values["tags"]),
    )
    return _Prepared(
        request, _measure(values, request, preset.evaluation.reference) if scoring else None
    )


def _measure(values: dict[str, Any], request: "SessionRequest", reference_name: str) -> "Measure":
    from evalsuite.artifacts.references import open_reference
    from evalsuite.pipeline.evaluation import Measure, check
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.scoring import parse_metrics

    metrics = parse_metrics(values["metrics"])
    reference = open_reference(values["reference"] or reference_name)
    device = resolve_device("cpu" if values["device"] == "cpu" else "auto")
    measure = Measure(request.demand.extractors[0], reference, metrics, device)
    check(measure, request.demand.num_samples)
    return measure


def _forecast(prepared: _Prepared) -> "_Forecast":
    """What stands, what is missing, and what making it will cost; writes nothing."""
    import torch

    from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
    from evalsuite.pipeline.coverage import (
        covered_ranges,
        default_shard_size,
        missing_images,
        tasks_for,
    )
    from evalsuite.pipeline.estimate import estimate, nearest_rate
    from evalsuite.runtime.machine import default_cpu_workers
    from evalsuite.runtime.session import manifest_of
    from evalsuite.sampling.sampler import count_nfe

    request = prepared.request
    plan, root = request.resolved.plan, request.root
    exists = (root / "manifest.json").exists()
    run = RunDirectory.create_or_open(root, manifest_of(request)) if exists else None
    low, high = request.demand.asked(plan.batch_size)
    covered = covered_ranges(run, plan, request.demand)
    missing = missing_images(covered, (low, high))
    device = "cuda" if request.device != "cpu" and torch.cuda.is_available() else "cpu"
    room = torch.cuda.device_count() if device == "cuda" else default_cpu_workers()
    workers = request.num_workers or room
    shard_size = request.shard_size or default_shard_size(missing, workers, plan.batch_size)
    done = [r for r in run.receipts(IMAGES) if low < r.stop and r.start < high] if run else []
    return _Forecast(
        cost=estimate(
            plan,
            missing,
            count_nfe(plan.sampling),
            workers,
            request.demand.extractors,
            request.output,
            nearest_rate(root, plan, request.resolved.preset, device),
        ),
        images_asked=high - low,
        shards_done=len(done),
        shards_missing=len(tasks_for(covered, (low, high), shard_size, plan.batch_size)),
    )


def _describe(prepared: _Prepared, values: dict[str, Any]) -> None:
    """What `--dry-run` prints: plan, work, disk and time."""
    from evalsuite.artifacts.storage import Storage
    from evalsuite.cli.output import data_size, duration, write_json

    request = prepared.request
    forecast = _forecast(prepared)
    cost = forecast.cost
    facts = {
        "plan_id": request.resolved.plan.plan_id,
        "output": str(request.root),
        "num_samples": request.demand.num_samples,
        "batch_size": request.resolved.plan.batch_size,
        "nfe_per_image": cost.nfe,
        "images_done": forecast.images_asked - cost.num_images,
        "images_missing": cost.num_images,
        "shards_done": forecast.shards_done,
        "shards_missing": forecast.shards_missing,
        "disk_bytes": cost.disk_bytes,
        "disk_free_bytes": Storage(request.root).free_bytes(),
        "seconds": None if cost.seconds is None else round(cost.seconds, 1),
        "rate_from": cost.source,
    }
    shown = {
        **facts,
        "disk_bytes": data_size(cost.disk_bytes),
        "disk_free_bytes": data_size(Storage(request.root).free_bytes()),
        "seconds": "unknown" if cost.seconds is None else duration(cost.seconds),
    }
    for key, value in shown.items():
        click.echo(f"{key.removesuffix('_bytes'):16} {value}")
    if values["json_path"]:
        write_json(values["json_path"], facts)


def _confirm(prepared: _Prepared, values: dict[str, Any]) -> None:
    """Refuse what the disk cannot hold, and, without --yes, hours of work without a GPU."""
    import torch

    from evalsuite.artifacts.storage import Storage
    from evalsuite.cli.output import data_size, duration
    from evalsuite.pipeline.estimate import HOUR_S

    storage = Storage(prepared.request.root)
    cost = _forecast(prepared).cost
    free = storage.free_bytes()
    if cost.disk_bytes > free:
        raise StorageError(
            f"{storage.root}: {data_size(cost.disk_bytes)} are needed, {data_size(free)} are free:"
            " free some space, keep fewer images (--images grid) or choose another --output"
        )
    local = prepared.request.address in {None, "local"}
    seconds = cost.seconds or 0.0
    if local and seconds > HOUR_S and not values["yes"] and not torch.cuda.is_available():
        raise UsageError(
            f"this is about {duration(seconds)} of work on a machine without GPU"
            f" ({cost.source}): add --yes to do it, or lower --num-samples"
        )


def _generate(prepared: _Prepared) -> "SessionResult":
    from evalsuite.cli.output import ProgressView, notice
    from evalsuite.runtime.driver import Progress
    from evalsuite.runtime.session import run_session

    request = prepared.request
    notice(f"plan {request.resolved.plan.plan_id[:12]}, run directory {request.root}")
    with ProgressView() as view:

        def listener(progress: Progress) -> None:
            view.update(
                progress.images_done,
                progress.images_total,
                progress.workers,
                progress.losses,
                loading=progress.loading,
            )

        return run_session(request, listener, notice)


def _say_made(result: "SessionResult") -> None:
    from evalsuite.cli.output import duration, notice

    if result.images_made:
        notice(f"{result.images_made} images made in {duration(result.seconds)}")
    else:
        notice("nothing was missing")


def _facts(prepared: _Prepared, result: "SessionResult", began: float) -> dict[str, Any]:
    generate_s = result.seconds
    return {
        "plan_id": prepared.request.resolved.plan.plan_id,
        "num_samples": prepared.request.demand.num_samples,
        "run": str(result.run.root),
        "images_made": result.images_made,
        "seconds": {"generate": round(generate_s, 3), "total": round(time.monotonic() - began, 3)},
        "images_per_second": round(result.images_made / generate_s, 3)
        if result.images_made
        else None,
    }


def _finish_run(
    prepared: _Prepared, result: "SessionResult", values: dict[str, Any], began: float
) -> None:
    """Score, report, and print what a person wants to see at the end."""
    from evalsuite.cli.output import metrics_table, notice, write_json
    from evalsuite.pipeline.coverage import missing_ranges
    from evalsuite.pipeline.evaluation import payload, score_run
    from evalsuite.report.html import write_report
    from evalsuite.report.summary import paste_line

    request, run = prepared.request, result.run
    _say_made(result)
    whole = request.demand._replace(part=None)
    facts = _facts(prepared, result, began)
    if missing_ranges(run, whole):
        part, parts = request.demand.part or (1, 1)
        notice(
            f"part {part}/{parts} is done; other parts are missing: when they are, "
            f"`evalsuite evaluate {run.root} --num-samples {request.demand.num_samples}` scores it"
        )
        if values["json_path"]:
            write_json(values["json_path"], payload([], facts))
        return
    scoring = time.monotonic()
    assert prepared.measure is not None
    records: list[Record] = score_run(run, prepared.measure, request.demand.num_samples)
    facts["seconds"] |= {
        "score": round(time.monotonic() - scoring, 3),
        "total": round(time.monotonic() - began, 3),
    }
    if values["json_path"]:
        write_json(values["json_path"], payload(records, facts))
    report = write_report(run)
    metrics_table(records)
    click.echo(f"run     {run.root}")
    click.echo(f"report  {report}")
    click.echo(paste_line(run.plan, run.manifest.model, request.demand.num_samples, records))
