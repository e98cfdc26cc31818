"""What `run` and `generate` check, resolve and forecast before a worker starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalsuite.cli.measuring import NOT_ASKED, Scoring, scoring_of
from evalsuite.cli.options import given
from evalsuite.errors import StorageError, UsageError

if TYPE_CHECKING:
    from evalsuite.config import BenchmarkSpec, ExtractorSpec
    from evalsuite.pipeline.estimate import Estimate
    from evalsuite.pipeline.plan import PlanOptions
    from evalsuite.runtime.observing.loggers import LogTarget
    from evalsuite.runtime.session import SessionRequest


@dataclass(frozen=True)
class Prepared:
    """A request that was checked, and what will be measured."""

    request: "SessionRequest"
    scoring: Scoring
    log: "tuple[LogTarget, ...]" = ()
    """Where progress and records go besides."""
    benchmark: "BenchmarkSpec | None" = None
    """The one whose prompts these are."""


@dataclass(frozen=True)
class Forecast:
    """What an invocation would do."""

    cost: "Estimate"
    images_asked: int
    shards_done: int
    shards_missing: int


def prepare(
    values: dict[str, Any],
    *,
    keep: Any,  # noqa: ANN401 - a literal
    command: str,
    options: "PlanOptions | None" = None,
) -> Prepared:
    """Everything that can be refused before a worker starts.

    Args:
        values: of the command's options.
        keep: images to keep by default.
        command: `run`, `generate`, `sweep` or `watch`.
        options: those of the plan, where they are not what `values` say.
    """
    from evalsuite.artifacts.storage import open_storage
    from evalsuite.cli.output import check_json_target
    from evalsuite.cli.resolve import plan_options_of
    from evalsuite.config import BenchmarkSpec, load_spec
    from evalsuite.pipeline.coverage import Demand
    from evalsuite.pipeline.fetching import benchmark_items, fetched_items
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.plan import check_count, resolve_plan
    from evalsuite.pipeline.stages import OutputFormat
    from evalsuite.pipeline.weights import UNSTATED
    from evalsuite.runtime.observing.loggers import check_installed, parse_target
    from evalsuite.runtime.session import SessionRequest

    check_json_target(values["json_path"])
    log = tuple(parse_target(text) for text in values["log"])
    check_installed(log)
    values = with_benchmark(values)
    asked = values.get("benchmark")
    benchmark = load_spec(BenchmarkSpec, asked) if asked else None
    options = options or plan_options_of(values)
    resolved = resolve_plan(options)
    preset, plan = resolved.preset, resolved.plan
    num_samples = values["num_samples"] or preset.evaluation.num_samples
    check_count(resolved, num_samples, values["replicate"])
    scored = plan
    if command == "watch":  # random weights stand for those of checkpoints that are to come
        scored = plan.model_copy(update={"ema": UNSTATED})
    scores = command != "generate"
    scoring = scoring_of(values, preset, scored, num_samples) if scores else NOT_ASKED
    specs = _extractors(values, scoring)
    if options.weights.lock is not None:
        references = [m.reference for m in scoring.measures if m.reference is not None]
        found = fetched_items(resolved, references, specs)
        options.weights.lock.check(found + (benchmark_items(benchmark) if benchmark else ()))
    for spec in specs:
        if spec.input_size not in {None, plan.size}:
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
    root = values["output"] or Path("runs") / resolved.run_name
    open_storage(root)
    request = SessionRequest(
        resolved=resolved,
        demand=Demand(num_samples, values["part"], values["images"] or keep, specs),
        root=root,
        output=OutputFormat(values["images"] or keep, shard_format),
        shard_size=values["shard_size"],
        device=values["device"],
        address=values["address"],
        num_workers=values["num_workers"],
        gpus_per_worker=1.0 if values["gpus_per_worker"] is None else values["gpus_per_worker"],
        allow_mixed_numerics=values["allow_mixed_numerics"],
        hash_all=values["hash_all"],
        command=command,
        asked=given(values),
        tags=dict(values["tags"]),
        price_per_gpu_hour=values["price_per_gpu_hour"],
    )
    return Prepared(request, scoring, log, benchmark)


def with_benchmark(values: dict[str, Any]) -> dict[str, Any]:
    """The options with what `--benchmark` stands for: prompts, number of images, all kept.

    Raises:
        UsageError: no such benchmark, its files are not here, or other prompts were given too.
    """
    from evalsuite.config import BenchmarkSpec, load_spec

    values = with_prompts(values)
    if values.get("benchmark") is None:
        return values
    spec = load_spec(BenchmarkSpec, values["benchmark"])
    count = spec.num_prompts * spec.images_per_prompt
    if spec.detector or values.get("detector") or values.get("judge"):
        _check_whole(spec, values["num_samples"] or count, values["images"])
    return {
        **values,
        "num_samples": values["num_samples"] or count,
        "images": values["images"] or "all",
    }


def with_prompts(values: dict[str, Any]) -> dict[str, Any]:
    """The options with the prompts of `--benchmark`.

    Raises:
        UsageError: no such benchmark, its prompts are not here, or others were given too.
    """
    from evalsuite.config import BenchmarkSpec, load_spec
    from evalsuite.pipeline.benchmark_files import prompts_file

    name = values.get("benchmark")
    if name is None:
        return values
    if values["prompts"] or values["prompt"]:
        raise UsageError(f"--benchmark {name} brings its prompts: leave --prompts and --prompt out")
    return {**values, "prompts": prompts_file(load_spec(BenchmarkSpec, name))}


def _check_whole(spec: "BenchmarkSpec", num_samples: int, images: str | None) -> None:
    """Raise UsageError unless what `run` scores by itself will be there: all, of every prompt."""
    if num_samples % spec.num_prompts:
        raise UsageError(
            f"--benchmark {spec.name} has {spec.num_prompts} prompts, and every one gets the same"
            f" number of images: give --num-samples as a multiple of {spec.num_prompts}"
        )
    if images not in {None, "all"}:
        raise UsageError(f"--benchmark {spec.name} scores every image: leave --images {images} out")


def _extractors(values: dict[str, Any], scoring: Scoring) -> "tuple[ExtractorSpec, ...]":
    """Whose features are computed beside the images: each once."""
    from evalsuite.cli.resolve import extractor_of, lock_of

    found = {measure.spec.extractor_id: measure.spec for measure in scoring.measures}
    if not found and values["extractor"] is not None:
        spec = extractor_of(
            values["extractor"],
            values["extractor_weights"],
            offline=values["offline"],
            lock=lock_of(values),
        )
        found = {spec.extractor_id: spec}
    if not found and values["extractor_weights"]:
        raise UsageError("--extractor-weights needs --extractor")
    return tuple(found.values())


def forecast(prepared: Prepared) -> "Forecast":
    """What stands, what is missing, and what making it will cost; writes nothing."""
    import torch

    from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, is_run
    from evalsuite.pipeline.coverage import (
        covered_ranges,
        default_shard_size,
        missing_images,
        readable_ranges,
        readable_spans,
        tasks_for,
    )
    from evalsuite.pipeline.estimate import estimate, nearest_rate, seconds_per_image
    from evalsuite.runtime.machine import room_for_workers
    from evalsuite.runtime.session import manifest_of
    from evalsuite.sampling.describe import nfe_of

    request = prepared.request
    plan, root = request.resolved.plan, request.root
    run = RunDirectory.create_or_open(root, manifest_of(request)) if is_run(root) else None
    low, high = request.demand.asked(plan.batch_size)
    if run is None:
        covered, done = covered_ranges(None, plan, request.demand), []
    else:  # what is damaged the run makes again
        covered = readable_ranges(run, request.demand)
        done = readable_spans(run, IMAGES, (low, high))
    missing = missing_images(covered, (low, high))
    device = "cuda" if request.device != "cpu" and torch.cuda.is_available() else "cpu"
    share = request.gpus_per_worker if device == "cuda" else 1.0
    workers = request.num_workers or room_for_workers(device, share)
    nfe = nfe_of(plan)
    rate = nearest_rate(root, plan, request.resolved.preset, device)
    shard_size = request.shard_size or default_shard_size(
        missing, workers, plan.batch_size, seconds_per_image(rate, nfe)
    )
    return Forecast(
        cost=estimate(
            plan,
            missing,
            nfe,
            rate.at_once(workers, share) if rate else workers,
            request.demand.extractors,
            request.output,
            rate,
        ),
        images_asked=high - low,
        shards_done=len(done),
        shards_missing=len(tasks_for(covered, (low, high), shard_size, plan.batch_size)),
    )


def hint_of_whole_batches(prepared: Prepared, num_missing: int) -> None:
    """Say so when fewer samples are asked for than the one batch that is computed has."""
    from evalsuite.cli.output import notice

    batch_size = prepared.request.resolved.plan.batch_size
    num_samples = prepared.request.demand.num_samples
    if num_missing and num_samples < batch_size:
        notice(
            f"a batch of {batch_size} is computed whole; --batch-size {num_samples} makes only what"
            " is asked (another plan)"
        )


def confirm(prepared: Prepared, values: dict[str, Any]) -> None:
    """Refuse what the disk cannot hold, and, without --yes, hours of work without a GPU."""
    import torch

    from evalsuite.artifacts.storage import open_storage
    from evalsuite.cli.output import data_size, duration
    from evalsuite.pipeline.estimate import is_long

    storage = open_storage(prepared.request.root)
    cost = forecast(prepared).cost
    free = storage.free_bytes()
    if free is not None and cost.disk_bytes > free:
        raise StorageError(
            f"{storage.root}: {data_size(cost.disk_bytes)} are needed, {data_size(free)} are free:"
            " free some space, keep fewer images (--images grid) or choose another --output"
        )
    hint_of_whole_batches(prepared, cost.num_images)
    local = prepared.request.address in {None, "local"}
    if not local or values["yes"] or torch.cuda.is_available():
        return
    if not is_long(cost.seconds, cost.num_images):
        return
    if cost.seconds is None:
        raise UsageError(
            f"no speed of {prepared.request.resolved.preset.name} is known here: add --yes to make"
            f" {cost.num_images} images, or make a few first"
        )
    raise UsageError(
        f"this is about {duration(cost.seconds)} of work on a machine without GPU"
        f" ({cost.source}): add --yes to do it, or lower --num-samples"
    )
