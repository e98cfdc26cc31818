"""Builds real run directories: real shards, receipts, records and attempts."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.artifacts.images import ImageRows, Keep, ShardFormat, pixel_sha256
from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.receipts import Receipt, commit_receipt, digest_of_pixels
from evalsuite.artifacts.records import Protocol, Record, short_count
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.config import LabelRule, Plan, ProtocolSpec, SamplingSettings, load_spec
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.numerics import numerics_id
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import ImageSink, OutputFormat, Produced
from evalsuite.sampling.sampler import count_nfe
from evalsuite.seeding import labels_of, seeds_of

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BATCH = 16
COMPUTE_S = 4.0
NUMERICS = {"device": "cpu", "architecture": "x86_64", "torch": "2.13.0+cpu", "threads": 1}


def make_plan(
    *, num_classes: int = 10, size: tuple[int, int] = (16, 16), ends: str = "open"
) -> Plan:
    """A plan of 50 Heun steps with guidance in an interval."""
    sampling = SamplingSettings.model_validate(
        {
            "solver": "heun",
            "num_steps": 50,
            "timeshift": 1.5,
            "guidance_scale": 1.75,
            "guidance_interval": (0.1, 0.9),
            "interval_ends": ends,
        }
    )
    return Plan(
        numerics_version=1,
        family="pixnerd",
        network={"hidden_size": 96, "depth": 6, "patch_size": 4},
        weights_sha256="ab" * 32,
        ema="averaged",
        num_classes=num_classes,
        labels=LabelRule(),
        classes=None,
        size=size,
        sampling=sampling,
        first_seed=1000,
        batch_size=BATCH,
        uint8_rule="half_up",
    )


def make_run(
    root: Path,
    *,
    plan: Plan | None = None,
    names: Sequence[str] | None = NAMES,
    prompts: Sequence[str] | None = None,
    keep: Keep = "all",
    num_images: int = 96,
    model: str = "pixnerd-digits",
    shard_format: ShardFormat = "parquet",
) -> RunDirectory:
    """A run with one image shard for each 32 samples, of random pixels."""
    plan = plan or make_plan()
    manifest = Manifest(
        model=model,
        plan_id=plan.plan_id,
        plan=plan,
        class_names=None if names is None else tuple(names),
        prompts=None if prompts is None else tuple(prompts),
        formats={"receipt": 1, "images": "parquet", "features": "safetensors"},
        created_at="2026-01-31T12:00:00+00:00",
    )
    run = RunDirectory.create_or_open(root, manifest)
    for start in range(0, num_images, 2 * BATCH):
        add_shard(run, start, start + 2 * BATCH, keep, shard_format=shard_format)
    return run


def add_shard(
    run: RunDirectory,
    start: int,
    stop: int,
    keep: Keep,
    attempt: str = "1f2e3d4c",
    given: np.ndarray | None = None,
    shard_format: ShardFormat = "parquet",
) -> None:
    """Write and commit one shard of images, random ones unless they are given."""
    plan = run.plan
    attempt_id = f"{attempt}-{start:05d}"
    task = ShardTask(start, stop, (IMAGES,))
    sink = ImageSink(run.storage, task, attempt_id, plan, OutputFormat(keep, shard_format))
    hashes: list[str] = []
    for at in range(start, stop, BATCH):
        images = pictures(plan, at, at + BATCH)
        images = images if given is None else given[at - start : at - start + BATCH]
        part = [pixel_sha256(image) for image in images]
        labels = labels_of(plan, at, at + BATCH)
        prompts = run.manifest.prompts
        shown = [prompts[label] for label in labels] if prompts else None
        rows = ImageRows(at, seeds_of(plan, at, at + BATCH), labels, images, shown)
        sink.write(Produced(rows), part)
        hashes += part
    receipt = Receipt(
        plan_id=plan.plan_id,
        stage=IMAGES,
        stage_version=1,
        start=start,
        stop=stop,
        attempt_id=attempt_id,
        files=sink.finish(),
        kept=sink.kept,
        pixel_sha256=tuple(hashes),
        pixels_digest=digest_of_pixels(hashes),
        nfe=count_nfe(plan.sampling),
        seconds={"compute": COMPUTE_S, "total": COMPUTE_S + 1},
        numerics_id=numerics_id(NUMERICS),
        numerics=NUMERICS,
        worker={"host": "vm", "pid": 4000 + start % 64, "device": "cpu"},
        created_at="2026-01-31T12:00:30+00:00",
    )
    assert commit_receipt(run.storage, receipt)


def pictures(plan: Plan, start: int, stop: int) -> np.ndarray:
    """Random pixels, other ones for each sample."""
    shape = (*plan.size, 3)
    seeds = seeds_of(plan, start, stop)
    return np.stack([np.random.default_rng(s).integers(0, 256, shape, np.uint8) for s in seeds])


def add_record(
    run: RunDirectory,
    metric: str,
    num_samples: int,
    value: float | None,
    *,
    prefix: str = "digits-",
    extractor: str = "digits",
    reference: str | None = "digits-16-train",
    reference_sha256: str = "ef" * 32,
    details: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    """Write one result; `details` are those of the protocol that are not digits'."""
    spec = METRICS[metric]
    protocol = Protocol(
        metric=metric,
        num_samples=num_samples,
        extractor=extractor,
        extractor_sha256="cd" * 32,
        resize="none",
        precision="float32",
        backend="torch",
        reference_sha256=None if reference is None else reference_sha256,
        details={**spec.fields(load_spec(ProtocolSpec, "digits")), **(details or {})},
        label_rule=run.plan.labels.describe(),
        uint8_rule=run.plan.uint8_rule,
        codec="lossless",
    )
    fields: dict[str, Any] = {
        "metric": metric,
        "display": f"{prefix}{spec.display}-{short_count(num_samples)}",
        "better": spec.better,
        "value": value,
        "standard_error": None,
        "extrapolated": None,
        "notes": (),
        "protocol": protocol,
        "protocol_id": protocol.protocol_id,
        "reference": reference,
        "samples": {"run": run.root.name, "plan_id": run.manifest.plan_id},
        "provenance": {"packages": {"torch": "2.13.0+cpu"}, "git": None},
        "cost": {"evaluation_seconds": 2.5},
        "created_at": "2026-01-31T12:01:00+00:00",
    }
    record = Record.model_validate(fields | changes).sealed()
    run.write_json(record.path, record.model_dump(mode="json"))
    return record


def add_attempt(run: RunDirectory, invocation_id: str = "1f2e3d4c", **changes: Any) -> None:
    """Write the file of one invocation, with the fields that `runtime.session` gives it."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "invocation_id": invocation_id,
        "asked": {
            "model": [["pixnerd-digits"]],
            "num-samples": [["90"]],
            "output": [["runs/my run"]],
        },
        "resolved": {
            "num_samples": 90,
            "part": None,
            "keep": "all",
            "shard_format": "parquet",
            "extractors": ["digits-convnet-5bb259a7"],
            "weights_file": "pixnerd-digits.safetensors",
        },
        "tags": {},
        "started_at": "2026-01-31T12:00:00+00:00",
        "ended_at": "2026-01-31T12:00:40+00:00",
        "seconds": 40.125,
        "outcome": "complete",
        "exit_code": 0,
        "images_made": 96,
        "workers": 2,
        "workers_lost": 0,
        "numerics_ids": [numerics_id(NUMERICS)],
        "hosts": ["vm"],
        "repaired": [],
        "packages": {"python": "3.11.7", "torch": "2.13.0+cpu", "ray": "2.60.0"},
        "git": {"revision": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        "hardware": {"system": "Linux", "machine": "x86_64", "cpus": 2},
    }
    run.write_json(f"attempts/{invocation_id}.json", content | changes)


def make_scored_run(root: Path, **options: Any) -> RunDirectory:
    """A run with two invocations and results over 90 and 50 samples."""
    run = make_run(root, **options)
    add_attempt(run)
    late = {"started_at": "2026-01-31T13:00:00+00:00", "images_made": 0, "seconds": 1.5}
    text = f"{run.root}/images/0000000032-0000000064-1f2e3d4c-00032.parquet is missing"
    add_attempt(run, "0a0b0c0d", **late, repaired=[text], tags={"why": "again"})
    few = "N is only 0.703 samples per feature dimension; extrapolated to infinite N: 31.2500"
    add_record(run, "fid", 90, 43.62519, standard_error=0.731, extrapolated=31.25, notes=(few,))
    add_record(run, "sfid", 90, 17.5, standard_error=0.25)
    add_record(run, "inception_score", 90, 8.125, standard_error=0.03125, reference=None)
    add_record(run, "precision", 90, 0.75, standard_error=0.0125)
    add_record(
        run, "recall", 90, 0.5, notes=("no standard error: it needs 100 samples, there are 90",)
    )
    add_record(run, "fid", 50, 60.0625, notes=("the covariance of the samples is singular",))
    return run


def renamed(path: Path, copy: Path, name: str) -> RunDirectory:
    """A copy of a run whose first class has another name."""
    shutil.copytree(path, copy)
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    names = [name, *content["class_names"][1:]]
    manifest.write_text(json.dumps(content | {"class_names": names}))
    return RunDirectory.open(copy)
