"""What a run of ten million samples costs to look at: status, dry-run, resume, worker.

Writes a synthetic ledger in a temporary folder (receipts of real shape with every pixel hash, and
data files of a few bytes), then starts real commands on it, each in a fresh process: cold (no cache
below `ledger/`) and warm. For each it prints seconds by the clock, CPU seconds, peak memory and the
files that it opened below the run, counted by an audit hook. The page cache of the operating system
is warm in both. Needs no Ray:

    python -m benchmarks.ledger [--receipts 20000,100000] [--samples 10000000] [--json FILE]
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.receipts import digest_of_pixels, range_name
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, feature_stage
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.pipeline.coverage import Demand, covered_ranges, missing_images
from evalsuite.pipeline.integrity import find_faults
from evalsuite.pipeline.numerics import numerics_of
from evalsuite.pipeline.plan import PlanOptions, resolve_plan

MIB = 2**20
DATA = b"sixteen bytes..."
SPEC = load_spec(ExtractorSpec, "digits-convnet")
FEATURES = feature_stage(SPEC.extractor_id)


def new_run(root: Path, batch_size: int | None = None) -> RunDirectory:
    """An empty run of the digits model, in batches of the preset's size unless told otherwise."""
    found = resolve_plan(PlanOptions(model="pixnerd-digits", batch_size=batch_size))
    manifest = Manifest(
        model=found.preset.name,
        plan_id=found.plan.plan_id,
        plan=found.plan,
        class_names=found.preset.class_names,
        formats={},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return RunDirectory.create_or_open(root, manifest)


def write_ledger(run: RunDirectory, num_samples: int, num_receipts: int) -> None:
    """Receipts of images and features, with data files, written plainly: no flush, no link."""
    size = num_samples // num_receipts
    digest = hashlib.sha256(DATA).hexdigest()
    numerics = {f"key_{i}": f"value {i}" for i in range(15)} | {"device": "cpu"}
    for stage, suffix in ((IMAGES, "parquet"), (FEATURES, "safetensors")):
        for folder in (stage, f"receipts/{stage}"):
            (run.root / folder).mkdir(parents=True, exist_ok=True)
        for start in range(0, num_samples, size):
            stop = min(start + size, num_samples)
            hashes = [hashlib.sha256(i.to_bytes(8)).hexdigest() for i in range(start, stop)]
            path = f"{stage}/{range_name(start, stop)}-0a1b2c3d-{start // size:05d}.{suffix}"
            (run.root / path).write_bytes(DATA)
            receipt: dict[str, Any] = {
                "schema_version": 1,
                "plan_id": run.manifest.plan_id,
                "stage": stage,
                "stage_version": 1,
                "start": start,
                "stop": stop,
                "attempt_id": f"0a1b2c3d-{start // size:05d}",
                "files": [{"path": path, "num_bytes": len(DATA), "sha256": digest}],
                "kept": "all" if stage == IMAGES else None,
                "pixel_sha256": hashes if stage == IMAGES else [],
                "pixels_digest": digest_of_pixels(hashes),
                "nfe": 99,
                "seconds": {"compute": 30.1234, "total": 31.5},
                "numerics_id": "12" * 32,
                "numerics": numerics,
                "worker": {"host": f"node{start % 128:03d}", "pid": 12345, "device": "cuda:0"},
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            place = run.root / f"receipts/{stage}/{range_name(start, stop)}.json"
            place.write_text(json.dumps(receipt, indent=1))
    run.write_json(
        "attempts/0a1b2c3d.json",
        {
            "invocation_id": "0a1b2c3d",
            "started_at": "2026-01-01T00:00:00+00:00",
            "outcome": "running",
            "images_made": 0,
            "resolved": {"num_samples": num_samples},
        },
    )


def status(root: Path, _: int) -> None:
    """`evalsuite status RUN`."""
    from evalsuite.cli.main import main

    main(["status", str(root)])


def dry_run(root: Path, num_samples: int) -> None:
    """`evalsuite run --dry-run` of all samples."""
    from evalsuite.cli.main import main

    asked = ["--num-samples", str(num_samples), "--images", "all", "--output", str(root)]
    main(["run", "--model", "pixnerd-digits", *asked, "--dry-run", "--device", "cpu"])


def resume(root: Path, num_samples: int) -> None:
    """What a run does before its first shard: check files, find what is missing."""
    run = RunDirectory.open(root)
    faults = find_faults(run, [IMAGES, FEATURES], 0, num_samples)
    demand = Demand(num_samples, None, "all", (SPEC,))
    covered = covered_ranges(run, run.plan, demand)
    missing = missing_images(covered, demand.asked(run.plan.batch_size))
    print(f"{len(faults)} faults, {missing} samples missing")


def worker(root: Path, num_samples: int) -> None:
    """What a worker reads for 20 shards whose images exist."""
    from evalsuite.artifacts.near import NearReceipts

    run = RunDirectory.open(root)
    near = NearReceipts(run.storage, run.manifest.plan_id)
    for i in range(20):
        start = num_samples // 20 * i
        near.kept_pixels(start, start + 100)


COMMANDS: dict[str, Callable[[Path, int], None]] = {
    "status": status,
    "dry-run": dry_run,
    "resume": resume,
    "worker, 20 shards": worker,
}


def one_command(name: str, root: Path, num_samples: int) -> None:
    """In the fresh process: count opens below the run, and print what the command took."""
    opened = 0
    below = str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event == "open" and str(arguments[0]).startswith(below):
            opened += 1

    sys.addaudithook(hook)
    began = time.perf_counter()
    try:
        COMMANDS[name](root, num_samples)
    except SystemExit as ended:
        if ended.code:
            raise
    took = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "seconds": round(took, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": usage.ru_maxrss // 1024,
        "opened": opened,
    }
    print(json.dumps(figures), file=sys.stderr)


def measured(name: str, root: Path, num_samples: int) -> dict[str, Any]:
    """Run one command in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.ledger", "--one", name, str(root), str(num_samples)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stderr.strip().splitlines()[-1])
    print(f"    {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ''}")
    return figures


def measure(num_samples: int, num_receipts: int) -> list[dict[str, Any]]:
    """All commands on one ledger, cold and warm."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        run = new_run(Path(folder) / "run")
        began = time.perf_counter()
        write_ledger(run, num_samples, num_receipts)
        print(f"{num_receipts} receipts a stage written in {time.perf_counter() - began:.0f} s")
        time.sleep(6)  # until they are settled
        for name in COMMANDS:
            if name == "resume":
                rows += cache_files(run, num_receipts)
            for state in ("cold", "warm"):
                if state == "cold":
                    remove_cache(run)
                figures = measured(name, run.root, num_samples)
                row = {"receipts": num_receipts, "command": name, "cache": state, **figures}
                print(row)
                rows.append(row)
    return rows


def cache_files(run: RunDirectory, num_receipts: int) -> list[dict[str, Any]]:
    """How many files the cache has, and how large they are together."""
    files = [p for p in (run.root / "ledger").rglob("*") if p.is_file()]
    rows = []
    for kind in ("index", "pixels"):
        sizes = [p.stat().st_size for p in files if p.suffix == f".{kind}"]
        whole = {"count": len(sizes), "mib": sum(sizes) // MIB}
        rows.append({"receipts": num_receipts, "cache files": kind, **whole})
        print(rows[-1])
    return rows


def remove_cache(run: RunDirectory) -> None:
    """Remove every segment."""
    for path in sorted((run.root / "ledger").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def main() -> None:
    """Print the figures, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receipts", default="20000,100000")
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, root, count = arguments.one
        one_command(name, Path(root), int(count))
        return
    rows = [
        row
        for count in map(int, arguments.receipts.split(","))
        for row in measure(arguments.samples, count)
    ]
    if arguments.json:
        kept = {
            "command": f"python -m benchmarks.ledger --receipts {arguments.receipts}"
            f" --samples {arguments.samples}",
            "machine": {**numerics_of(torch.device("cpu")), "cores": os.cpu_count()},
            "load_average_after": [round(one, 2) for one in os.getloadavg()],
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
