"""`evalsuite run` and `evalsuite generate`."""

import time
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.logging_to import logging_to
from evalsuite.cli.options import (
    PATH,
    PLACE,
    POSITIVE,
    NumberRange,
    RememberedCommand,
    WorkerCount,
    device_option,
    gpus_per_worker_option,
    measure_options,
    parse_part,
    parse_tag,
    plan_options,
)
from evalsuite.cli.prepare import Prepared, confirm, forecast, hint_of_whole_batches, prepare
from evalsuite.cli.t2i_judging import benchmark_scoring, network_options

if TYPE_CHECKING:
    from evalsuite.artifacts.records import Record
    from evalsuite.cli.t2i_judging import BenchmarkScoring
    from evalsuite.runtime.observing.loggers import Loggers
    from evalsuite.runtime.session import SessionResult

_WORK_OPTIONS = [
    click.option("--num-samples", type=POSITIVE, help="[default: 50,000 ImageNet, 2,000 digits]."),
    click.option(
        "--benchmark",
        metavar="NAME",
        help="geneval, dpg or shapes: its prompts, its number of images, all of them kept; `run`"
        " scores shapes, and the others with --detector or --judge.",
    ),
    click.option("--shard-size", type=POSITIVE, help="Of one shard [default: by N, workers]."),
    click.option(
        "--num-workers",
        type=WorkerCount(),
        help="[default: auto, one for each GPU, or core; follows a cluster that grows or shrinks]."
        " More than there are cores share them, and the memory must hold them all.",
    ),
    gpus_per_worker_option,
    click.option("--address", metavar="ADDR", help="local, auto or host:port [default: local]."),
    click.option("--part", type=parse_part, metavar="I/N", help="Only share I of N of the run."),
    click.option("--output", type=PLACE, help="Run directory [default: runs/MODEL-PLAN]."),
    click.option(
        "--images",
        type=click.Choice(["all", "grid", "none"]),
        help="Pixels to keep [default: grid in run, all in generate].",
    ),
    click.option(
        "--shard-format", type=click.Choice(["parquet", "npz"]), help="[default: parquet]."
    ),
    click.option(
        "--tag",
        "tags",
        type=parse_tag,
        metavar="KEY=VALUE",
        multiple=True,
        help="Noted with the invocation.",
    ),
    click.option(
        "--log",
        metavar="TO",
        multiple=True,
        help="Also log to wandb:PROJECT[/RUN], tensorboard:DIR or mlflow:URI[#EXPERIMENT].",
    ),
    click.option(
        "--price-per-gpu-hour",
        type=NumberRange(min=0),
        metavar="X",
        help="Reckon what the run costs.",
    ),
    click.option("--allow-mixed-numerics", is_flag=True, help="Mix kinds of machines; recorded."),
    click.option(
        "--hash-all",
        is_flag=True,
        help="Hash every stored file first, not only those changed since they were checked.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and its cost."),
    click.option("--yes", is_flag=True, help="Do more than an hour of work without a GPU."),
]


def _work_options(function: Any) -> Any:  # noqa: ANN401 - click's decorators
    for option in reversed(_WORK_OPTIONS):
        function = option(function)
    return function


def run_options(function: Any) -> Any:  # noqa: ANN401 - click's decorators
    """What `run` takes, and commands that run a model as it does."""
    return plan_options(_work_options(device_option(measure_options(function))))


@click.command(
    cls=RememberedCommand,
    epilog="Examples:\n\n\b\n  evalsuite run --model pixnerd-digits\n"
    "  evalsuite run --model pixnerd-digits --num-samples 500 --guidance-scale 2 --num-steps 30",
)
@run_options
@network_options
def run(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Generate images, compute FID, sFID, IS, precision and recall, and leave a report.

    Keeps the images of a grid and all features; `--images all` keeps every image. Running the
    same command again is free; with a larger --num-samples only the new samples are made.
    Options without a stated default take the preset's: see `evalsuite models show NAME`.
    """
    prepared = prepare(values, keep="grid", command="run")
    judging = benchmark_scoring(prepared.benchmark, values)
    if values["dry_run"]:
        describe(prepared, values)
        return
    confirm(prepared, values)
    began = time.monotonic()
    with logging_to(prepared) as loggers:
        result = generate_images(prepared, loggers)
        _finish_run(prepared, result, values, began, loggers, judging)


@click.command(
    cls=RememberedCommand,
    epilog="Examples:\n\n\b\n  evalsuite generate --model pixnerd-digits --num-samples 500\n"
    "  evalsuite generate --model pixnerd-digits --part 1/3 --output runs/shared",
)
@plan_options
@_work_options
@device_option
@click.option("--extractor", metavar="NAME", help="Also keep the features of this extractor.")
@click.option("--extractor-weights", metavar="PATH|hub:REPO", help="Its weights.")
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def generate(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Generate images without scoring; keeps every image unless --images says otherwise.

    Options without a stated default take the preset's: see `evalsuite models show NAME`.
    """
    from evalsuite.cli.output import write_json
    from evalsuite.pipeline.evaluation import payload

    prepared = prepare(values, keep="all", command="generate")
    if values["dry_run"]:
        describe(prepared, values)
        return
    confirm(prepared, values)
    began = time.monotonic()
    with logging_to(prepared) as loggers:
        result = generate_images(prepared, loggers)
    say_made(result)
    click.echo(str(result.run.root))
    if values["json_path"]:
        write_json(values["json_path"], payload([], _facts(prepared, result, began)))


def describe(prepared: Prepared, values: dict[str, Any]) -> None:
    """What `--dry-run` prints: plan, work, disk and time."""
    from evalsuite.artifacts.storage import open_storage
    from evalsuite.cli.output import data_size, duration, write_json
    from evalsuite.pipeline.evaluation import payload

    request = prepared.request
    classes, text = request.resolved.plan.classes, request.resolved.plan.text
    ahead = forecast(prepared)
    cost = ahead.cost
    free = open_storage(request.root).free_bytes()
    hint_of_whole_batches(prepared, cost.num_images)
    facts = {
        "plan_id": request.resolved.plan.plan_id,
        "output": str(request.root),
        "num_samples": request.demand.num_samples,
        "batch_size": request.resolved.plan.batch_size,
        **({"classes": list(classes)} if classes is not None else {}),
        **({"num_prompts": text.prompts.count} if text is not None else {}),
        "nfe_per_image": cost.nfe,
        "images_done": ahead.images_asked - cost.num_images,
        "images_missing": cost.num_images,
        "shards_done": ahead.shards_done,
        "shards_missing": ahead.shards_missing,
        "disk_bytes": cost.disk_bytes,
        "disk_free_bytes": free,
        "seconds": None if cost.seconds is None else round(cost.seconds, 1),
        "rate_from": cost.source,
    }
    shown = {
        **facts,
        **({"classes": ", ".join(map(str, classes))} if classes is not None else {}),
        "disk_bytes": data_size(cost.disk_bytes),
        "disk_free_bytes": "unknown" if free is None else data_size(free),
        "seconds": "unknown" if cost.seconds is None else duration(cost.seconds),
    }
    for key, value in shown.items():
        click.echo(f"{key.removesuffix('_bytes'):16} {value}")
    if values["json_path"]:
        estimate = {"seconds": {"estimated": facts["seconds"]}}
        write_json(values["json_path"], payload([], {**facts, **estimate}))


def generate_images(prepared: Prepared, loggers: "Loggers") -> "SessionResult":
    """Make what is missing, and show how it goes."""
    from evalsuite.cli.encoding_view import EncodingView
    from evalsuite.cli.output import ProgressView, notice
    from evalsuite.runtime.progress import Progress
    from evalsuite.runtime.session import run_session

    request = prepared.request
    notice(f"plan {request.resolved.plan.plan_id[:12]}, run directory {request.root}")
    for text in request.resolved.notices:
        notice(text)
    if request.resolved.plan.has_random_weights:
        notice("RANDOM WEIGHTS: the images are noise, good for a try; no report is written")
    encoding = EncodingView(request.root, request.resolved.plan, request.resolved.materials)
    with ProgressView() as view:

        def listener(progress: Progress) -> None:
            if progress.loading:
                encoding.update()
            view.show(progress)
            loggers.progress(progress)

        return run_session(request, listener, notice)


def say_made(result: "SessionResult") -> None:
    """Say what an invocation made."""
    from evalsuite.cli.output import duration, notice

    if result.images_made:
        notice(f"{result.images_made} images made in {duration(result.seconds)}")
    else:
        notice("nothing was missing")


def _facts(prepared: Prepared, result: "SessionResult", began: float) -> dict[str, Any]:
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


def _finish_unscored(
    prepared: Prepared, result: "SessionResult", values: dict[str, Any], facts: dict[str, Any]
) -> None:
    """The end of a `run` whose preset names no reference, or whose weights are random."""
    from evalsuite.cli.output import notice, write_json
    from evalsuite.pipeline.evaluation import payload
    from evalsuite.report.html import write_report

    plan = prepared.request.resolved.plan
    if values["json_path"]:
        write_json(values["json_path"], payload([], facts))
    click.echo(f"run     {result.run.root}")
    if "benchmark" not in facts:
        notice(f"nothing was scored: {prepared.scoring.reason}")
    if plan.has_random_weights:
        return
    click.echo(f"report  {write_report(result.run)}")


def _judged(
    prepared: Prepared,
    result: "SessionResult",
    judging: "BenchmarkScoring | None",
    values: dict[str, Any],
) -> dict[str, Any]:
    """The scores of a benchmark, printed; nothing where no network was given to score it."""
    from evalsuite.cli.output import notice

    request = prepared.request
    if prepared.benchmark is None or request.resolved.plan.has_random_weights:
        return {}
    if judging is None:
        spec = prepared.benchmark
        command = "dpg" if any(file.role == "dpg-csv" for file in spec.files) else "geneval"
        notice(
            f"no network was given to score {spec.name}: `evalsuite t2i {command} --help` says how"
        )
        return {}
    return {"benchmark": judging.score(result.run, request.demand.num_samples, values)}


def _finish_run(
    prepared: Prepared,
    result: "SessionResult",
    values: dict[str, Any],
    began: float,
    loggers: "Loggers",
    judging: "BenchmarkScoring | None",
) -> None:
    """Score, report, and print what a person wants to see at the end."""
    from evalsuite.cli.output import metrics_tables, notice, write_json
    from evalsuite.pipeline.coverage import missing_ranges
    from evalsuite.pipeline.evaluation import payload, score_run_by
    from evalsuite.report.html import write_report
    from evalsuite.report.summary import by_protocol, paste_line

    request, run = prepared.request, result.run
    say_made(result)
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
    facts |= _judged(prepared, result, judging, values)
    if not prepared.scoring.measures:
        _finish_unscored(prepared, result, values, facts)
        return
    scoring = time.monotonic()
    count = request.demand.num_samples
    records: list[Record] = score_run_by(run, prepared.scoring.measures, count)
    loggers.records(records, count)
    facts["seconds"] |= {
        "score": round(time.monotonic() - scoring, 3),
        "total": round(time.monotonic() - began, 3),
    }
    if values["json_path"]:
        write_json(values["json_path"], payload(records, facts))
    report = write_report(run)
    metrics_tables(records)
    click.echo(f"run     {run.root}")
    click.echo(f"report  {report}")
    for together in by_protocol(records):
        click.echo(paste_line(run.plan, run.manifest.model, count, together))
