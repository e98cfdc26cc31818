"""One invocation of `run` or `generate` on a run directory: repair, plan, drive, record."""

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evalsuite.artifacts.compacting import keeping_compact
from evalsuite.artifacts.ledger import Span
from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.receipts import (
    check_same_pixels,
    read_receipt,
    receipt_name,
)
from evalsuite.artifacts.run_card import write_run_card
from evalsuite.artifacts.run_directory import (
    IMAGES,
    RunDirectory,
    gaps_of,
    is_run,
)
from evalsuite.artifacts.storage import Place
from evalsuite.errors import EvalsuiteError, IncompleteError, StorageError, UsageError
from evalsuite.pipeline.company import Lookout, in_company, others_at_work, said_of
from evalsuite.pipeline.coverage import (
    Demand,
    covered_ranges,
    default_shard_size,
    missing_images,
    missing_ranges,
    tasks_for,
)
from evalsuite.pipeline.estimate import is_long, nearest_rate, seconds_per_image
from evalsuite.pipeline.integrity import find_faults
from evalsuite.pipeline.labels import first_names
from evalsuite.pipeline.plan import ResolvedPlan
from evalsuite.pipeline.provenance import hardware, package_versions, source_revision
from evalsuite.pipeline.ranges import Range
from evalsuite.pipeline.repair import keep_as_before, take_out
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import WorkerJob, kin_of
from evalsuite.runtime.address import check_address
from evalsuite.runtime.bench import Bench
from evalsuite.runtime.cluster import connected
from evalsuite.runtime.driver import Driver, DriverReport
from evalsuite.runtime.observing.watch import Watch
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest, signals_to
from evalsuite.runtime.team import Team, look_around
from evalsuite.sampling.describe import describe_conditions, describe_sampler, nfe_of

ATTEMPT_SCHEMA = 1
VISIBLE_S = 90.0
"""By then an NFS client has dropped what it remembers of a directory (60 s by default)."""
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class SessionRequest:
    """What an invocation wants, resolved."""

    resolved: ResolvedPlan
    demand: Demand
    root: Place
    output: OutputFormat
    shard_size: int | None
    device: str
    address: str | None
    num_workers: int | None
    gpus_per_worker: float
    allow_mixed_numerics: bool
    command: str
    """`run` or `generate`."""
    asked: dict[str, Any]
    """Options as they were given, for the attempt's file."""
    tags: dict[str, str]
    price_per_gpu_hour: float | None = None
    """For the money that it costs; noted in the attempt."""
    hash_all: bool = False
    """Read every stored file first, also those that nobody changed since they were checked."""


@dataclass
class SessionResult:
    """What an invocation did."""

    run: RunDirectory
    images_made: int
    seconds: float
    report: DriverReport = field(default_factory=DriverReport)
    repaired: list[str] = field(default_factory=list)


def manifest_of(request: SessionRequest) -> Manifest:
    """The manifest that a new run directory gets."""
    resolved = request.resolved
    return Manifest(
        model=resolved.preset.name,
        plan_id=resolved.plan.plan_id,
        plan=resolved.plan,
        class_names=first_names(resolved.preset),
        prompts=resolved.materials.prompts,
        weights_origin=dict(resolved.origin),
        file_labels=resolved.materials.file_labels,
        formats={"receipt": 1, "images": request.output.shard_format, "features": "safetensors"},
        created_at=_now(),
    )


def run_session(
    request: SessionRequest,
    listener: Callable[[Progress], None],
    notice: Callable[[str], None],
    bench: Bench | None = None,
) -> SessionResult:
    """Make what the run lacks, and record the invocation whatever happens.

    Args:
        request: what is wanted.
        listener: is told the progress.
        notice: is told in one line each what a person should know (repairs).
        bench: keeps Ray and workers for the next session.

    Raises:
        EvalsuiteError: whatever ended the work; committed shards stay.
    """
    if request.address not in {None, "local"} and not is_run(request.root):
        check_address(str(request.address), notice)  # a typing error leaves no run behind
    run = RunDirectory.create_or_open(request.root, manifest_of(request))
    invocation_id = secrets.token_hex(4)
    began, started_at = time.monotonic(), _now()
    result = SessionResult(run, 0, 0.0)
    watch = Watch(
        run,
        invocation_id,
        request.command,
        gpus_per_worker=request.gpus_per_worker,
        price_per_gpu_hour=request.price_per_gpu_hour,
    )

    def record(outcome: str, exit_code: int) -> None:
        result.seconds = time.monotonic() - began
        attempt = _attempt(request, result, invocation_id, started_at)
        attempt |= {"outcome": outcome, "exit_code": exit_code}
        attempt |= watch.summary() if outcome != "running" else {}
        run.write_json(f"attempts/{invocation_id}.json", attempt)

    record("running", -1)
    with watch.beating():
        try:
            _repair(request, run, result, notice)
            _make_missing(request, run, invocation_id, result, listener, notice, watch, bench)
            _compare_overlaps(run, request.demand.asked(run.plan.batch_size))
        except BaseException as error:
            with contextlib.suppress(StorageError):  # a full disk must not hide what happened
                exit_code = error.exit_code if isinstance(error, EvalsuiteError) else 1
                exit_code = 130 if isinstance(error, KeyboardInterrupt) else exit_code
                record(str(error) or type(error).__name__, exit_code)
            raise
        record("complete", 0)
    write_run_card(run, "; ".join([*describe_sampler(run.plan), describe_conditions(run.plan)]))
    return result


def _attempt(
    request: SessionRequest, result: SessionResult, invocation_id: str, started_at: str
) -> dict[str, Any]:
    """What an invocation leaves in `attempts/`: what was asked, resolved and done, and by what."""
    report = result.report
    return {
        "schema_version": ATTEMPT_SCHEMA,
        "invocation_id": invocation_id,
        "command": request.command,
        "asked": request.asked,
        "resolved": {
            "num_samples": request.demand.num_samples,
            "part": request.demand.part,
            "keep": request.demand.keep,
            "shard_format": request.output.shard_format,
            "extractors": [s.extractor_id for s in request.demand.extractors],
            "gpus_per_worker": request.gpus_per_worker,
            "num_workers": request.num_workers,
            "weights": dict(request.resolved.origin),
        },
        "tags": request.tags,
        "started_at": started_at,
        "ended_at": _now(),
        "seconds": round(result.seconds, 3),
        "images_made": result.images_made,
        "workers": report.num_workers,
        "workers_lost": report.losses,
        "numerics_ids": sorted(report.numerics_ids),
        "hosts": sorted(report.hosts),
        "repaired": result.repaired,
        "packages": package_versions(),
        "git": source_revision(),
        "hardware": hardware(),
    }


def _repair(
    request: SessionRequest,
    run: RunDirectory,
    result: SessionResult,
    notice: Callable[[str], None],
) -> None:
    """Take damaged shards out of the share of the run that this invocation makes."""
    start, stop = request.demand.asked(run.plan.batch_size)
    faults = find_faults(run, request.demand.stages, start, stop, hash_all=request.hash_all)
    for fault in faults:
        result.repaired.append(fault.text)
        notice(f"{fault.text}; this shard is made again")
    take_out(run, faults)


def _make_missing(
    request: SessionRequest,
    run: RunDirectory,
    invocation_id: str,
    result: SessionResult,
    listener: Callable[[Progress], None],
    notice: Callable[[str], None],
    watch: Watch,
    bench: Bench | None,
) -> None:
    batch_size = run.plan.batch_size
    asked = request.demand.asked(batch_size)
    covered = covered_ranges(run, run.plan, request.demand)
    num_missing = missing_images(covered, asked)
    if not num_missing:
        return
    others = others_at_work(run, invocation_id, asked)
    for other in others:
        notice(said_of(other))
    use_gpu = request.device != "cpu"
    stop = StopRequest(is_share=request.demand.part is not None)

    def heard(progress: Progress) -> None:
        watch.progress(progress)
        listener(progress)

    join = connected if bench is None else bench.connected
    with (
        join(request.address, request.num_workers, use_gpu=use_gpu, notice=notice) as cluster,
        signals_to(stop),
    ):
        room = -(-num_missing // batch_size)
        nodes, team = look_around(
            cluster,
            request.num_workers,
            request.device,
            request.gpus_per_worker,
            shared=run.root,
        )
        num_workers = team.target(nodes, bench.num_idle if bench else 0, room)
        rate = nearest_rate(request.root, run.plan, request.resolved.preset, team.kind)
        image_s = seconds_per_image(rate, nfe_of(run.plan))
        _refuse_hours_on_cpus(request, team, image_s, num_missing / num_workers)
        shard_size = request.shard_size or default_shard_size(
            num_missing, num_workers, batch_size, image_s
        )
        tasks = tasks_for(covered, asked, shard_size, batch_size)
        tasks = keep_as_before(run, tasks, request.demand.keep)
        tasks = in_company(tasks, len(others), invocation_id)
        job = WorkerJob(
            run_root=str(run.root.absolute()),
            materials=request.resolved.materials,
            extractors=request.demand.extractors,
            output=request.output,
            device=team.kind,
            allow_mixed_numerics=request.allow_mixed_numerics,
        )
        if bench is not None:
            bench.turn_to((kin_of(run.plan, job), team.kind, team.size))
        lookout = Lookout(run, request.demand)
        driver = Driver(
            job,
            team,
            invocation_id,
            heard,
            stop,
            observer=watch.observe,
            bench=bench,
            lookout=lookout,
        )
        try:
            with keeping_compact(run, sorted(covered)), lookout.looking():
                driver.run(tasks)
        finally:
            result.report = driver.report
            told = sum(c.task.stop - c.task.start for c in driver.report.commits if c.committed)
            untold = 0
            with contextlib.suppress(EvalsuiteError):  # it must not hide what ended the work
                untold = _own_of(run, invocation_id, driver.report.left_out)
            result.images_made = told + untold
    elsewhere = sum(stop - start for _, start, stop in driver.report.left_out) - untold
    if elsewhere:
        notice(f"{elsewhere} images were made by another invocation meanwhile")
    gaps = _gaps_left(run, request.demand, driver.report)
    if gaps:
        listed = ", ".join(f"{low}..{high - 1}" for low, high in gaps[:6])
        raise IncompleteError(
            f"{run.root}: samples {listed} are still missing: run the same command again"
        )


def _own_of(run: RunDirectory, invocation_id: str, parts: Sequence[tuple[str, int, int]]) -> int:
    """Images among `parts` that workers of ours committed and did not live to tell."""
    found = 0
    for stage, start, stop in parts:
        for head in run.committed(stage, start, stop):
            if head.attempt_id.startswith(f"{invocation_id}-"):
                found += min(head.stop, stop) - max(head.start, start)
    return found


def _refuse_hours_on_cpus(
    request: SessionRequest, team: Team, image_s: float | None, images_each: float
) -> None:
    """Raise UsageError where `--device auto` finds a cluster without GPUs, for long work."""
    if team.kind == "cuda" or team.is_private or request.device == "cpu":
        return
    if is_long(None if image_s is None else image_s * images_each, images_each):
        raise UsageError(
            f"Ray at {request.address} has no GPU now, and this is more than an hour of work"
            " without: give --device cpu to do it so, or --device cuda when GPUs are there"
        )


def _gaps_left(run: RunDirectory, demand: Demand, report: DriverReport) -> list[Range]:
    """Ranges that lack a stage, once this machine sees what the workers of others reported.

    A client of a network file system may list a directory as it was a minute ago.
    """
    reported = [(commit.task.start, commit.task.stop) for commit in report.commits]
    deadline = time.monotonic() + VISIBLE_S
    while True:
        gaps = missing_ranges(run, demand)
        truly_missing = any(gaps_of(reported, low, high) for low, high in gaps)
        if not gaps or truly_missing or time.monotonic() > deadline:
            return gaps
        time.sleep(_LOOK_AGAIN_S)


def _compare_overlaps(run: RunDirectory, asked: Range) -> None:
    """Shards of several invocations at the same time may overlap; their pixels must agree."""
    open_spans: list[Span] = []
    for span in sorted(run.spans(IMAGES, *asked), key=lambda span: (span.start, span.stop)):
        open_spans = [one for one in open_spans if span.start < one.stop]
        for one in open_spans:
            names = [receipt_name(IMAGES, each.start, each.stop) for each in (one, span)]
            first, second = (read_receipt(run.storage, name) for name in names)
            check_same_pixels(first, second)
        open_spans.append(span)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
