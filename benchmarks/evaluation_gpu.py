"""The evaluator on one GPU: from a file of images to the printed table, phase by phase.

Runs without Ray and TensorFlow, which it never imports. As a program it is the evaluation alone,
in a process of its own so that imports and start-up count:

    python -m benchmarks.evaluation_gpu SAMPLES --reference NPZ --extractor YAML [--device cuda]

Legend: N images, H height, W width, C channels.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import Contestant, Timing, alternate
from benchmarks.evaluation_inputs import (
    extractor_file,
    structured_images,
    write_images,
    write_sparse_images,
)
from benchmarks.evaluation_parts import PEER, WORKER, Bench, words
from benchmarks.evaluation_tables import GB, Table, compared, rounds_of
from benchmarks.watching import Observed, observe

_METRICS = ("fid", "sfid", "inception_score", "precision", "recall")
_SHORT = 10
"""The first evaluation, which embeds the reference, takes so many times fewer images."""
_PNG_PORTION = 500


def gpu(bench: Bench) -> list[Table]:
    """All that is measured on a GPU, for which a CPU stands in when `--device cpu` is given."""
    from evalsuite.pipeline.numerics import resolve_device

    options = bench.options
    device = resolve_device(options.device)
    if device.type != "cuda" and options.device != "cpu":
        print("no GPU here: the part gpu is left out")
        return []
    extractor = extractor_file(bench.folder, bench.network(".pb", options.divisor), options.divisor)
    samples = bench.folder / "gpu.npz"
    write_sparse_images(samples, options.gpu_images, options.size, 1)
    reference = bench.folder / "gpu-real.npz"
    write_sparse_images(reference, options.gpu_reference, options.size, 2)
    tables = [_phases(bench, samples, extractor), _ends(bench, samples, reference, extractor)]
    if options.png_images:
        pictures = write_pictures(bench.folder / "png", options.png_images, options)
        title = f"{options.png_images} PNG"
        tables.append(_ends(bench, pictures, reference, extractor, title))
    if options.peers_python is not None:
        tables.append(_beside(bench, extractor))
    return tables


def _phases(bench: Bench, samples: Path, extractor: Path) -> Table:
    """The network alone on images in memory, and reading alone."""
    from evalsuite.artifacts.samples import open_samples
    from evalsuite.config import ExtractorSpec, load_spec
    from evalsuite.pipeline.decoding import decoded
    from evalsuite.pipeline.embedding import opened_extractor
    from evalsuite.pipeline.numerics import resolve_device

    options = bench.options
    spec = load_spec(ExtractorSpec, str(extractor))
    images = open_samples(samples)
    count = min(options.gpu_images, 64 * options.gpu_batches)
    with opened_extractor(spec, resolve_device(options.device)) as network:
        batch_NHWC = np.stack(list(structured_images(spec.batch_size, options.size, 1)))
        network(batch_NHWC)  # warms up what is made once

        def compute() -> None:
            for _ in range(count // spec.batch_size):
                network(batch_NHWC)

        rows = [_rate(f"network, batch {spec.batch_size}", count, _seconds(compute))]

    def read() -> None:
        for _ in decoded(images, 0, count, spec.batch_size, options.cores):
            pass

    rows.append(_rate("reading the NPZ", count, _seconds(read)))
    return Table(f"each alone, {options.size} x {options.size}", rows)


def _rate(name: str, count: int, seconds: float) -> dict[str, Any]:
    return {"what": name, "images": count, "s": seconds, "images/s": count / seconds}


def _seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _ends(
    bench: Bench, samples: Path, reference: Path, extractor: Path, what: str | None = None
) -> Table:
    """The whole evaluation twice: few images while the reference is embedded, then all of them."""
    options = bench.options
    count = options.png_images if what else options.gpu_images
    rows, timings = [], []
    for first in (True, False):
        number = count if not first else max(count // _SHORT, 4)
        out = bench.folder / "gpu.json"
        command = [sys.executable, "-m", "benchmarks.evaluation_gpu", str(samples)]
        command += words(reference=reference, extractor=extractor, device=options.device)
        command += words(decoders=options.cores, json=out)
        command += ["--num-samples", str(number)]
        usage, _ = _run(command, bench.folder / "cache-gpu")
        found = json.loads(out.read_text(encoding="utf-8"))
        row = {"images": number, "reference": "embedded" if found["embedded"] else "kept"}
        rows.append(row | {"s": usage.wall_s, "peak GB": usage.peak_bytes / GB} | found["seconds"])
        timings.append(Timing(str(number), [usage]))
    return Table(
        f"end to end, {what or 'an NPZ'} of {options.size} x {options.size} against"
        f" {options.gpu_reference}: from the start of Python to the printed table (target 60 s)",
        rows,
        ["evaluation: features of reference and samples, reading included; metrics by name"],
        rounds_of(timings),
    )


def _run(command: list[str], cache: Path) -> Observed:
    import os
    import subprocess

    environment = {**os.environ, "EVALSUITE_CACHE": str(cache)}
    process = subprocess.Popen(command, env=environment)
    observed = observe([process.pid], process.wait)
    if observed.result:
        raise SystemExit(f"the evaluation ended with exit code {observed.result}")
    return observed


def _beside(bench: Bench, extractor: Path) -> Table:
    """Our network and torch-fidelity's in turn."""
    options = bench.options
    count = 64 * options.gpu_batches
    npz = write_images(bench.folder / "gpu-images.npz", count, options.size, 1)
    ours = [*WORKER, "features", *words(samples=npz, extractor=extractor)]
    peer = [str(options.peers_python), *PEER, "fidelity", *words(samples=npz)]
    peer += words(weights=bench.network("_tf.pth"), save=bench.folder / "gpu-peer.npy")
    device = words(device=options.device)
    with ExitStack() as stack:
        ways = [
            stack.enter_context(Contestant("ours", [ours + device])),
            stack.enter_context(Contestant("torch-fidelity", [peer + device])),
        ]
        for way in ways:
            way.run()  # warms up what is made once
        timings = alternate({way.name: way.run for way in ways}, options.rounds)
    title = f"features on {options.device}: {count} images from an NPZ, memory of the host"
    return compared(title, timings, "ours", images=count)


def write_pictures(folder: Path, count: int, options: argparse.Namespace) -> Path:
    """A folder of PNG files, made by all cores."""
    folder.mkdir()
    starts = range(0, count, _PNG_PORTION)
    jobs = [(folder, start, min(_PNG_PORTION, count - start), options.size) for start in starts]
    with get_context("spawn").Pool(options.cores) as pool:
        pool.starmap(_write_some, jobs)
    return folder


def _write_some(folder: Path, start: int, count: int, size: int) -> None:
    from PIL import Image

    for index, image_HWC in enumerate(structured_images(count, size, start), start):
        Image.fromarray(image_HWC).save(folder / f"{index:06}.png", compress_level=1)


@contextmanager
def timed_metrics(seconds: dict[str, float]) -> Iterator[None]:
    """Every metric's computation adds its seconds to a dictionary meanwhile."""
    from evalsuite.metrics.registry import METRICS
    from evalsuite.metrics.values import Computation, MetricSpec, MetricValue

    before = dict(METRICS)

    def clocked(spec: MetricSpec) -> MetricSpec:
        def compute(work: Computation) -> MetricValue:
            began = time.perf_counter()
            value = spec.compute(work)
            seconds[spec.name] = time.perf_counter() - began
            return value

        return dataclasses.replace(spec, compute=compute)

    METRICS.update({name: clocked(before[name]) for name in _METRICS})
    try:
        yield
    finally:
        METRICS.update(before)


def main() -> None:
    """Evaluate, print the table, and write the seconds of each phase."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", type=Path)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--extractor", required=True)
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    from evalsuite.artifacts.digests import cache_root
    from evalsuite.artifacts.references import open_reference
    from evalsuite.artifacts.samples import open_samples
    from evalsuite.cli.output import metrics_table
    from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
    from evalsuite.pipeline.evaluation import score_samples
    from evalsuite.pipeline.measure import Measure
    from evalsuite.pipeline.numerics import resolve_device

    known = list((cache_root() / "references").glob("*/features.bin"))
    measure = Measure(
        load_spec(ExtractorSpec, arguments.extractor),
        open_reference(arguments.reference),
        _METRICS,
        resolve_device(arguments.device),
        load_spec(ProtocolSpec, "adm"),
    )
    seconds: dict[str, float] = {}
    samples = open_samples(arguments.samples)
    with timed_metrics(seconds):
        scored = score_samples(samples, [measure], arguments.num_samples, arguments.decoders)
    records = [one.record for one in scored]
    metrics_table(records)
    seconds = {"evaluation": records[0].cost["evaluation_seconds"], **seconds}
    if arguments.json:
        content = {"seconds": seconds, "embedded": not known}
        arguments.json.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
