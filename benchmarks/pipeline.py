"""How much of the bare sampler's speed is left when features, encoding and commits go with it.

Two things alternate in one process, on the same batches and one compute thread: the bare loop
(sampler only) and a whole worker (sampler, hashes, features, PNG encoding, flushed files,
receipts). Prints the median images/s of each and the median ratio of the rounds. Machines are
noisy, so quote the ratio. Needs no Ray:

    python -m benchmarks.pipeline [--model NAME] [--images 400] [--rounds 5] [--device cpu]
"""

import argparse
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from evalsuite.artifacts.run_directory import IMAGES, Manifest, RunDirectory, feature_stage
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import ShardWorker, WorkerJob


def bare_loop(sampler: BatchSampler, num_batches: int) -> float:
    """Seconds for the sampler alone."""
    began = time.perf_counter()
    for index in range(num_batches):
        sampler.batch(index)
    return time.perf_counter() - began


def whole_worker(worker: ShardWorker, tasks: list[ShardTask], attempt: str) -> float:
    """Seconds until every shard is committed; computing and committing overlap as under Ray."""
    began = time.perf_counter()
    names = [f"{attempt}-{i}" for i in range(len(tasks))]

    def compute() -> None:
        for task, name in zip(tasks, names, strict=True):
            worker.compute(task, name)

    thread = threading.Thread(target=compute)
    thread.start()
    for task, name in zip(tasks, names, strict=True):
        worker.commit(task, name)
    thread.join()
    return time.perf_counter() - began


def main() -> None:
    """Print images/s of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pixnerd-digits")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    resolved = resolve_plan(PlanOptions(model=arguments.model))
    plan, device = resolved.plan, resolve_device(arguments.device)
    spec = load_spec(ExtractorSpec, resolved.preset.evaluation.extractor)
    stages = (IMAGES, feature_stage(spec.extractor_id))
    per_shard = max(1, arguments.images // arguments.shards // plan.batch_size) * plan.batch_size
    tasks = [
        ShardTask(start, start + per_shard, stages)
        for start in range(0, per_shard * arguments.shards, per_shard)
    ]
    images = per_shard * arguments.shards
    sampler = BatchSampler(plan, resolved.materials, device)
    sampler.batch(0)
    ratios, bare_rates, whole_rates = [], [], []
    for round_number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            manifest = Manifest(
                model=resolved.preset.name,
                plan_id=plan.plan_id,
                plan=plan,
                formats={},
                created_at=datetime.now(UTC).isoformat(),
            )
            root = Path(folder) / "run"
            RunDirectory.create_or_open(root, manifest)
            output = OutputFormat("all", "parquet")
            job = WorkerJob(str(root), resolved.materials, (spec,), output, device.type)
            worker = ShardWorker(job)
            worker.load()
            bare_s = bare_loop(sampler, images // plan.batch_size)
            whole_s = whole_worker(worker, tasks, f"round{round_number}")
        ratios.append(bare_s / whole_s)
        bare_rates.append(images / bare_s)
        whole_rates.append(images / whole_s)
    print(f"bare sampler loop  {statistics.median(bare_rates):8.1f} images/s")
    print(f"whole worker       {statistics.median(whole_rates):8.1f} images/s (every image kept)")
    print(f"ratio              {statistics.median(ratios):8.3f} of {[round(r, 3) for r in ratios]}")


if __name__ == "__main__":
    main()
