"""How much of the bare sampler's speed a whole worker keeps, and whether its memory stays flat.

Part `overlap`: two things alternate in one process on the same batches. The bare loop calls the
sampler on noise that is at hand, and drops its images. The whole pipeline is a worker with its
three threads and two shards in hand, as the driver keeps it: it draws the noise of every sample,
converts, hashes, extracts features (with --features), encodes, writes, flushes and commits; its
first noise and its last commit are in its time. Quote the ratio of the medians.

The sampler is a stand-in (`benchmarks/stand_ins.py`) that waits as long as one H200 would take at
the aimed rate, or computes on the CPU, or the real sampler of a preset with --model. Cases are
SAMPLER-SIZE-FORMAT.

Part `memory`: resident memory of a worker over many shards without waiting, and of the driver and a
worker of a real run (Ray), each with the slope of a line through the later two thirds.

    python -m benchmarks.pipeline [--cases wait-256-parquet,compute-256-npz] [--features]
    python -m benchmarks.pipeline --parts memory [--json FILE]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.generation import machine_of
from benchmarks.memory import growth_of_run, growth_of_worker
from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import CommitReport, ShardWorker, WorkerJob
from evalsuite.runtime.workers import IN_FLIGHT

RATES = {256: 8.8, 512: 2.0}
"""Images/s of one H200 at each size: the aim of the design, 100 steps with guidance."""
BATCH_SIZES = {256: 16, 512: 4}
"""Of the presets."""
PRODUCTS = {256: 40, 512: 176}
"""Of two matrices of 512 x 512, per image: about the wait on one core of the machine at hand."""
FEATURES = "features/stand-in"
CASES = "wait-256-parquet,wait-256-npz,wait-512-parquet,wait-512-npz,compute-256-parquet"


class Case(NamedTuple):
    """What is measured: a sampler, the size of its images, the format of shards."""

    sampler: str
    size: int
    shard_format: Any

    @classmethod
    def of(cls, name: str) -> "Case":
        """From SAMPLER-SIZE-FORMAT."""
        sampler, size, shard_format = name.split("-")
        return cls(sampler, int(size), shard_format)

    def resolved(self, model: str | None) -> ResolvedPlan:
        """The plan of a preset, or of a stand-in."""
        if model is not None:
            return resolve_plan(PlanOptions(model))
        kind = {"wait": "Waiting", "compute": "Computing", "instant": "Waiting"}[self.sampler]
        settings = {
            "wait": {"seconds_per_image": 1 / RATES[self.size]},
            "compute": {"products_per_image": PRODUCTS[self.size]},
            "instant": {},
        }
        return resolve_plan(
            PlanOptions(
                f"python:benchmarks.stand_ins:{kind}",
                size=(self.size, self.size),
                batch_size=BATCH_SIZES[self.size],
                sampling=settings[self.sampler],
                trust_code=True,
            )
        )


@torch.inference_mode()
def bare_loop(sampler: BatchSampler, num_batches: int) -> float:
    """Seconds of the sampler alone, on noise that is there."""
    inputs = sampler.inputs(0)
    noise_BCHW = inputs.noise_BCHW.to(sampler.device)
    began = time.perf_counter()
    for _ in range(num_batches):
        sampler._model.sample(noise_BCHW, inputs.labels, inputs.generators, sampler._settings)
    if sampler.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def whole_pipeline(worker: ShardWorker, tasks: list[ShardTask], attempt: str) -> float:
    """Seconds until every shard is committed, handed over as by the driver."""
    began = time.perf_counter()
    flights: deque[Future[CommitReport]] = deque()
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as gpu, ThreadPoolExecutor(1) as io:
        for number, task in enumerate(tasks):
            if len(flights) == IN_FLIGHT:
                flights.popleft().result()
            name = f"{attempt}-{number:05d}"
            ahead.submit(worker.prepare, task, name)
            gpu.submit(worker.compute, task, name)
            flights.append(io.submit(worker.commit, task, name))
        for flight in flights:
            flight.result()
    return time.perf_counter() - began


def open_worker(resolved: ResolvedPlan, root: Path, case: Case, device: str) -> ShardWorker:
    """A loaded worker of a new run."""
    manifest = Manifest(
        model=resolved.preset.name,
        plan_id=resolved.plan.plan_id,
        plan=resolved.plan,
        formats={},
        created_at=datetime.now(UTC).isoformat(),
    )
    RunDirectory.create_or_open(root, manifest)
    output = OutputFormat("all", case.shard_format)
    worker = ShardWorker(WorkerJob(str(root), resolved.materials, (), output, device))
    worker.load()
    return worker


def tasks_of(num_shards: int, shard_size: int, *, features: bool) -> list[ShardTask]:
    """Shards from sample 0 on."""
    stages = (IMAGES, FEATURES) if features else (IMAGES,)
    return [ShardTask(k * shard_size, (k + 1) * shard_size, stages) for k in range(num_shards)]


def measure_overlap(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Alternate both ways for some rounds."""
    from benchmarks.stand_ins import WaitingExtractor

    case = Case.of(name)
    resolved = case.resolved(arguments.model)
    batch_size = resolved.plan.batch_size
    num_shards = arguments.batches // arguments.shard_batches
    num_batches = num_shards * arguments.shard_batches
    tasks = tasks_of(num_shards, arguments.shard_batches * batch_size, features=arguments.features)
    bare_s, whole_s, cpu_s, loads = [], [], [], []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            device = resolve_device(arguments.device).type
            worker = open_worker(resolved, Path(folder) / "run", case, device)
            worker._extractors[FEATURES] = WaitingExtractor()
            bare_loop(worker._sampler, 1)
            bare_s.append(bare_loop(worker._sampler, num_batches))
            began_cpu = time.process_time()
            whole_s.append(whole_pipeline(worker, tasks, f"round{number}"))
            cpu_s.append(time.process_time() - began_cpu)
            worker._encoders.shutdown()
        loads.append(os.getloadavg()[0])
    images = num_batches * batch_size
    return {
        "case": name,
        "features": arguments.features,
        "images": images,
        "shards": num_shards,
        "bare_images_per_s": images / statistics.median(bare_s),
        "whole_images_per_s": images / statistics.median(whole_s),
        "ratio": statistics.median(bare_s) / statistics.median(whole_s),
        "ratio_of_each_round": [b / w for b, w in zip(bare_s, whole_s, strict=True)],
        "cpu_s_per_s": sum(cpu_s) / sum(whole_s),
        "load": loads,
    }


def measure_memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Growth of a worker at 256 x 256, and of the driver and worker of a run of digits."""
    case = Case("instant", 256, "parquet")
    resolved = case.resolved(None)
    tasks = tasks_of(arguments.shards, resolved.plan.batch_size, features=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        from benchmarks.stand_ins import WaitingExtractor

        worker = open_worker(resolved, Path(folder) / "run", case, "cpu")
        worker._extractors[FEATURES] = WaitingExtractor()
        grown = [growth_of_worker(lambda: whole_pipeline(worker, tasks, "m"), worker, 16)]
        worker._encoders.shutdown()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        grown += growth_of_run(Path(folder), arguments.run_shards)
    return [growth._asdict() | {"flat": growth.text()} for growth in grown]


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="overlap", help="overlap,memory")
    parser.add_argument("--cases", default=CASES, help=f"[default: {CASES}]")
    parser.add_argument("--model", help="a preset whose real sampler takes the stand-in's place")
    parser.add_argument("--features", action="store_true", help="extract features too")
    parser.add_argument("--batches", type=int, default=24, help="of one round")
    parser.add_argument("--shard-batches", type=int, default=4, help="batches of one shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=400, help="of the worker watched")
    parser.add_argument("--run-shards", type=int, default=2000, help="of the run watched")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="where runs are written [default: temporary]")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse()
    kept: dict[str, Any] = {
        "options": {k: v for k, v in vars(arguments).items() if k not in {"json", "folder"}},
        "machine": machine_of(resolve_device(arguments.device)),
        "load_at_start": os.getloadavg(),
    }
    torch.set_num_threads(1)
    if "overlap" in arguments.parts:
        kept["overlap"] = []
        for name in arguments.cases.split(","):
            found = measure_overlap(name, arguments)
            kept["overlap"].append(found)
            rounds = ", ".join(f"{ratio:.3f}" for ratio in found["ratio_of_each_round"])
            print(
                f"{name:20} bare {found['bare_images_per_s']:7.2f} images/s, whole"
                f" {found['whole_images_per_s']:7.2f}, ratio {found['ratio']:.4f} ({rounds}),"
                f" {found['cpu_s_per_s']:.2f} cores, load {max(found['load']):.0f}",
                flush=True,
            )
    if "memory" in arguments.parts:
        kept["memory"] = measure_memory(arguments)
        print("\n".join(found["flat"] for found in kept["memory"]))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
