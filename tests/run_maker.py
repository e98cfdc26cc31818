"""Real runs of the digits model without Ray: one worker, whose two halves run in two threads."""

import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.receipts import cover
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, feature_stage
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import CommitReport, ShardWorker, WorkerJob

SPEC = load_spec(ExtractorSpec, "digits-convnet")
DIGITS = load_spec(ProtocolSpec, "digits")
FEATURES = feature_stage(SPEC.extractor_id)
BOTH = (IMAGES, FEATURES)
BATCH = 10
CPU = torch.device("cpu")


def resolved(**changes: Any) -> ResolvedPlan:
    """The digits model in two steps and batches of 10."""
    options: dict[str, Any] = {"model": "pixnerd-digits", "batch_size": BATCH}
    options["sampling"] = {"num_steps": 2, **changes.pop("sampling", {})}
    return resolve_plan(PlanOptions(**(options | changes)))


def new_run(root: Path, **changes: Any) -> RunDirectory:
    """An empty run of that plan."""
    found = resolved(**changes)
    manifest = Manifest(
        model=found.preset.name,
        plan_id=found.plan.plan_id,
        plan=found.plan,
        class_names=found.preset.class_names,
        file_labels=found.materials.file_labels,
        formats={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    return RunDirectory.create_or_open(root, manifest)


def new_worker(run: RunDirectory, keep: Any = "all", shard_format: Any = "parquet") -> ShardWorker:
    """A loaded worker of a run."""
    output = OutputFormat(keep, shard_format)
    worker = ShardWorker(WorkerJob(str(run.root), resolved().materials, (SPEC,), output, "cpu"))
    worker.load()
    return worker


def make_shard(
    worker: ShardWorker, start: int, stop: int, stages: Sequence[str] = BOTH, attempt: str = ""
) -> CommitReport:
    """Two parts in threads and `commit` in this one, as Ray's concurrency groups run them."""
    task = ShardTask(start, stop, tuple(stages))
    attempt = attempt or secrets.token_hex(4)
    threads = begin(worker, task, attempt)
    try:
        return worker.commit(task, attempt)
    finally:
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "a producer goes on though nobody reads"


def begin(worker: ShardWorker, task: ShardTask, attempt: str) -> list[threading.Thread]:
    """`prepare` and `compute`, each in a thread that has started."""
    parts = (worker.prepare, worker.compute)
    threads = [threading.Thread(target=part, args=(task, attempt), daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    return threads


def make_run(root: Path, count: int, shard_size: int, **changes: Any) -> RunDirectory:
    """A run with images and features of `count` samples in shards of one size."""
    run = new_run(root, **changes)
    worker = new_worker(run)
    for start in range(0, count, shard_size):
        make_shard(worker, start, min(start + shard_size, count))
    return run


def hashes_of(run: RunDirectory, stop: int) -> list[str]:
    """Pixel hashes of samples 0..stop-1 from the receipts."""
    return [
        part.receipt.pixel_sha256[index - part.receipt.start]
        for part in cover(run.receipts(IMAGES), 0, stop)
        for index in range(part.start, part.stop)
    ]


def measure(reference: str | None = "digits-16-train", metrics: Sequence[str] = ()) -> Measure:
    """What `run` measures of digits."""
    found = open_reference(reference) if reference else None
    return Measure(SPEC, found, list(metrics or DIGITS.metrics), CPU, DIGITS)


def files_below(root: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir())
