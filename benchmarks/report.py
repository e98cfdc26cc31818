"""How long the report of a large run takes to write, and Chromium to open.

Makes synthetic runs in a temporary folder (real shards, receipts, records, influence values and
features; pixels of a small pool), writes their reports, and opens each in a fresh headless Chromium
several times, from the disk, as a reader does. Seconds count from the navigation to the end of the
page's `load` event, and to the first paint of content, by the browser's own clock.

    classes: 256 x 256, 1,000 classes, all images kept: sheets, the heat map, a table of classes
    digits: 16 x 16, 10 classes, features: neighbours and the scatter plot as well

Needs no Ray and no GPU; Chromium and its driver must be installed:

    python -m benchmarks.report [--samples 50000] [--opens 5] [--json FILE]
"""

import argparse
import hashlib
import io
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalsuite.artifacts.features import FeatureTable, encode_features
from evalsuite.artifacts.images import ImageRows, Images, encode_png, pixel_sha256
from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.receipts import (
    Receipt,
    ReceiptFile,
    commit_receipt,
    digest_of_pixels,
    range_name,
)
from evalsuite.artifacts.records import Record, short_count
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, feature_stage
from evalsuite.config import ExtractorSpec, Plan, ProtocolSpec, load_spec
from evalsuite.pipeline.evaluation import score_run
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.provenance import package_versions
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.reference_data import known_features, prepare_reference
from evalsuite.pipeline.stages import ImageSink, OutputFormat, Produced
from evalsuite.report.html import write_report
from evalsuite.report.results import read_records
from evalsuite.seeding import labels_of, seeds_of

SPEC = load_spec(ExtractorSpec, "digits-convnet")
SHARD, BATCH, WORKERS = 500, 250, 8
POOL = 200
"""Different images; others repeat them."""
BEGAN = datetime(2026, 1, 31, 12, tzinfo=UTC)
CPU = torch.device("cpu")
PROGRAM = "python -m benchmarks.report"
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
TIMES = (
    "const [n] = performance.getEntriesByType('navigation');"
    "const p = performance.getEntriesByName('first-contentful-paint')[0];"
    "return [n.loadEventEnd, p ? p.startTime : null, document.querySelectorAll('*').length]"
)


def pool_of(size: tuple[int, int]) -> Images:
    """Smooth pictures with a little noise, uint8 [POOL,H,W,3]: a PNG of them is not tiny."""
    rng = np.random.default_rng(0)
    waves_HW = np.add.outer(*(np.linspace(0, 4, side) for side in size))
    phases_N3 = rng.uniform(0, 6, (POOL, 3))
    smooth = 127 + 90 * np.sin(waves_HW[None, :, :, None] + phases_N3[:, None, None, :])
    return (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def new_run(root: Path, plan: Plan, names: Sequence[str]) -> RunDirectory:
    """An empty run."""
    manifest = Manifest(
        model="pixnerd-digits",
        plan_id=plan.plan_id,
        plan=plan,
        class_names=tuple(names),
        formats={},
        created_at=BEGAN.isoformat(),
    )
    return RunDirectory.create_or_open(root, manifest)


def write_images(run: RunDirectory, num_samples: int) -> None:
    """Image shards by some workers in turns."""
    pool = pool_of(run.plan.size)
    hashes, files = [pixel_sha256(one) for one in pool], [encode_png(one) for one in pool]
    for start in range(0, num_samples, SHARD):
        places = [index % POOL for index in range(start, start + SHARD)]
        rest = iter([files[place] for place in places])

        def encoded(_: Any, images: Iterable[Images], rest: Iterator[bytes] = rest) -> list[bytes]:
            return [next(rest) for _ in images]

        task = ShardTask(start, start + SHARD, (IMAGES,))
        output = OutputFormat("all", "parquet")
        sink = ImageSink(run.storage, task, attempt_of(start), run.plan, output, encoded)
        for at in range(start, start + SHARD, BATCH):
            mine, stop = places[at - start : at - start + BATCH], at + BATCH
            seeds, labels = seeds_of(run.plan, at, stop), labels_of(run.plan, at, stop)
            rows = ImageRows(at, seeds, labels, pool[mine])
            sink.write(Produced(rows), [hashes[place] for place in mine])
        commit(run, IMAGES, start, [hashes[place] for place in places], sink.finish())


def write_features(run: RunDirectory, num_samples: int) -> None:
    """Feature shards: the reference's features with noise, so that a metric means something."""
    table = known_features(measure())
    assert table is not None
    stage, rng = feature_stage(SPEC.extractor_id), np.random.default_rng(1)
    for receipt in run.receipts(IMAGES, 0, num_samples):
        rows = rng.integers(0, len(table.pool_ND), SHARD)
        noise_ND = rng.normal(0, 0.3, (SHARD, table.pool_ND.shape[1]))
        features = FeatureTable(
            receipt.start, (table.pool_ND[rows] + noise_ND).astype(np.float32), None, None
        )
        path = f"{stage}/{range_name(receipt.start, receipt.stop)}.safetensors"
        content = encode_features(features)
        run.storage.replace(path, content)
        digest = hashlib.sha256(content).hexdigest()
        file = ReceiptFile(path=path, num_bytes=len(content), sha256=digest)
        commit(run, stage, receipt.start, list(receipt.pixel_sha256), (file,))


def commit(
    run: RunDirectory, stage: str, start: int, hashes: list[str], files: tuple[ReceiptFile, ...]
) -> None:
    """A receipt of the worker whose turn it is, 40 s after its last one."""
    turn, worker = divmod(start // SHARD, WORKERS)
    receipt = Receipt(
        plan_id=run.manifest.plan_id,
        stage=stage,
        stage_version=1,
        start=start,
        stop=start + SHARD,
        attempt_id=attempt_of(start),
        files=files,
        kept="all" if stage == IMAGES else None,
        pixel_sha256=tuple(hashes) if stage == IMAGES else (),
        pixels_digest=digest_of_pixels(hashes),
        nfe=99,
        seconds={"compute": 39.0, "total": 40.0},
        numerics_id="ab" * 32,
        numerics={"device": "synthetic"},
        worker={"host": f"node-{worker}", "pid": 100, "device": "cuda:0"},
        created_at=(BEGAN + timedelta(seconds=40 * (turn + 1))).isoformat(),
    )
    assert commit_receipt(run.storage, receipt)


def attempt_of(start: int) -> str:
    """Of the one invocation."""
    return f"bench-{start // SHARD:05d}"


def measure() -> Measure:
    """FID of digits, and a metric that needs the reference's features."""
    protocol = load_spec(ProtocolSpec, "digits")
    return Measure(SPEC, open_reference("digits-16-train"), ["fid", "precision"], CPU, protocol)


def make_digits(root: Path, num_samples: int) -> RunDirectory:
    """10 classes of small images, scored for real."""
    found = resolve_plan(PlanOptions("pixnerd-digits", batch_size=BATCH))
    run = new_run(root, found.plan, found.preset.class_names or ())
    prepare_reference(measure())
    write_images(run, num_samples)
    write_features(run, num_samples)
    score_run(run, measure()._replace(metrics=["fid"]), num_samples)
    return run


def make_classes(root: Path, num_samples: int, like: Record) -> RunDirectory:
    """1,000 classes of 256 x 256, with a record and influence values of no meaning."""
    plan = resolve_plan(PlanOptions("pixnerd-digits", batch_size=BATCH)).plan
    plan = plan.model_copy(update={"num_classes": 1000, "size": (256, 256)})
    run = new_run(root, plan, [f"a class called {number}" for number in range(1000)])
    write_images(run, num_samples)
    record = like.model_copy(update={"display": f"FID-{short_count(num_samples)}"}).sealed()
    run.write_json(record.path, record.model_dump(mode="json"))
    influence_N = np.random.default_rng(2).normal(0, 5, num_samples)
    buffer = io.BytesIO()
    np.save(buffer, influence_N - influence_N.mean())
    run.storage.replace(record.influence_path, buffer.getvalue())
    return run


def timed(run: RunDirectory, opens: int) -> dict[str, Any]:
    """Seconds of writing the report and of opening it, and how large it is."""
    began = time.perf_counter()
    path = Path(str(write_report(run)))
    written_s = time.perf_counter() - began
    found = [opened(path) for _ in range(opens)]
    beside = [file.stat().st_size for file in path.parent.rglob("*") if file.is_file()]
    return {
        "write_s": round(written_s, 2),
        "open_s": [round(one[0] / 1000, 3) for one in found],
        "median_open_s": round(statistics.median(one[0] for one in found) / 1000, 3),
        "first_paint_s": [round(one[1] / 1000, 3) for one in found],
        "elements": found[0][2],
        "page_bytes": path.stat().st_size,
        "files": len(beside),
        "folder_bytes": sum(beside),
    }


def opened(path: Path) -> list[float]:
    """Milliseconds to the end of `load` and to the first paint, and elements, in a new browser."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory() as profile:
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.get(path.as_uri())
            times: list[float] = driver.execute_script(TIMES)
            return times
        finally:
            driver.quit()


def main() -> None:
    """Measure both runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--samples", type=int, default=50_000, help="a multiple of 500")
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        digits = make_digits(Path(folder) / "digits", options.samples)
        (record,) = read_records(digits)
        classes = make_classes(Path(folder) / "classes", options.samples, record)
        found = {
            name: timed(run, options.opens)
            for name, run in (("digits", digits), ("classes", classes))
        }
    for name, figures in found.items():
        print(name, json.dumps(figures))
    if options.json:
        about = {
            "command": f"{PROGRAM} --samples {options.samples} --opens {options.opens}",
            "samples": options.samples,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "measured_at": datetime.now(UTC).date().isoformat(),
            "versions": package_versions(),
        }
        options.json.write_text(json.dumps({**about, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
