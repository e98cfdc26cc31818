"""The parts of the benchmark of the evaluator that run the whole command: speed and memory."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, Timing
from benchmarks.evaluation_inputs import extractor_file, write_images, write_sparse_images
from benchmarks.evaluation_parts import WORKER, Bench, words
from benchmarks.evaluation_tables import GB, Table, compared, rounds_of
from benchmarks.watching import Observed

_METRICS = ("fid", "sfid", "inception_score", "precision", "recall")
_SERVED = """
import json, subprocess, sys
from benchmarks.contestants import serve
def run():
    subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
    return {}
serve(run)
"""
"""A process that runs a command whenever asked, so that a command can be watched as others are."""

FULL_ROW_BYTES = 4 * (2048 + 2023 + 1008)
NARROW_ROW_BYTES = 4 * (256 + 2023 + 1008)
_TARGET_IMAGES = 50_000
_BOUND_BYTES = 3 * 2**30


def evaluate(
    bench: Bench, samples: Path, reference: Path, extractor: Path, cache: Path, *options: str
) -> tuple[Observed, dict[str, Any]]:
    """Run `evalsuite evaluate` with a cache of its own; what it took, and what it wrote."""
    out = bench.folder / "evaluated.json"
    command = [sys.executable, "-m", "evalsuite", "evaluate", str(samples)]
    command += words(reference=reference, extractor=extractor, protocol="adm", device="cpu")
    command += words(metrics=",".join(_METRICS), json=out) + list(options)
    environment = {"EVALSUITE_CACHE": str(cache)}
    with Contestant("evaluate", [[sys.executable, "-c", _SERVED, *command]], environment) as way:
        observed = way.run()
    return observed, json.loads(out.read_text(encoding="utf-8"))


def end(bench: Bench) -> list[Table]:
    """Two evaluations against the same reference, and ADM's."""
    options = bench.options
    samples = write_images(bench.folder / "end.npz", options.end_images, options.size, 1)
    reference = write_images(bench.folder / "real.npz", options.end_reference, options.size, 2)
    extractor = extractor_file(bench.folder, bench.network(".pb"))
    timings = {name: Timing(name) for name in ("ours", "ours again", "ADM")}
    command = [*WORKER, "adm-evaluation"]
    command += words(samples=samples, reference=reference, weights=bench.network(".pb"))
    written: dict[str, Any] = {}
    for number in range(options.rounds):
        cache = bench.folder / f"cache-{number}"
        for name in ("ours", "ours again"):
            before = _stamps(cache)
            (usage, _), written = evaluate(bench, samples, reference, extractor, cache)
            if name == "ours again" and _stamps(cache) != before:
                raise SystemExit("the second evaluation embedded the reference again")
            timings[name].rounds.append(usage)
        with Contestant("ADM", [command]) as way:
            usage, answers = way.run()
        timings["ADM"].rounds.append(usage)
        timings["ADM"].result = answers[0]
    adm = timings["ADM"].result
    ours = {name: written["metrics"][name]["value"] for name in _METRICS}
    values = {"ours": ours, "ours again": ours, "ADM": adm}
    facts = {name: {key: _short(value[key]) for key in _METRICS} for name, value in values.items()}
    title = (
        f"end to end: {options.end_images} images of {options.size} x {options.size} against"
        f" {options.end_reference}, from the command to the printed table"
    )
    table = compared(title, timings, "ours again", images=options.end_images, facts=facts)
    cost = written["records"][0]["cost"]
    table.notes += [
        "'ours again' embeds no reference image: features and radii of the reference are kept",
        f"ADM's phases: {_phases(adm)}",
        f"ours again: features {cost['evaluation_seconds']:.1f} s,"
        f" metrics {cost['score_seconds']:.1f} s",
    ]
    return [table]


def _stamps(cache: Path) -> dict[str, int]:
    """When each kept file of references was written."""
    return {str(path): path.stat().st_mtime_ns for path in (cache / "references").rglob("*.*")}


def _phases(adm: Mapping[str, float]) -> str:
    phases = {
        key.removeprefix("seconds of "): value
        for key, value in adm.items()
        if key.startswith("seconds of ")
    }
    listed = ", ".join(f"{key} {value:.1f} s" for key, value in phases.items())
    return f"{listed}; their sum {sum(phases.values()):.1f} s"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def memory(bench: Bench) -> list[Table]:
    """Peak memory of `evaluate` by the number of images, and of the metrics at full width."""
    tables = [_slope(bench)]
    if bench.options.scoring_images:
        tables.append(_scoring(bench))
    return tables


def _slope(bench: Bench) -> Table:
    options = bench.options
    size, counts = options.memory_size, options.memory_images
    extractor = extractor_file(bench.folder, bench.network(".pb", 8), 8)
    reference = write_images(bench.folder / "real-memory.npz", 300, size, 2)
    cache = bench.folder / "cache-memory"
    rows, timings = [], []
    for count in counts:
        npz = write_sparse_images(bench.folder / f"sparse-{count}.npz", count, size, 1)
        # in one process: Ray's own, of a long evaluation, would be taken for the images'
        (usage, _), _ = evaluate(bench, npz, reference, extractor, cache, "--num-workers", "1")
        npz.unlink()
        row = {"images": count, "s": usage.wall_s, "CPU s": usage.cpu_s}
        rows.append(row | {"peak GB": usage.peak_bytes / GB})
        timings.append(Timing(str(count), [usage]))
    table = Table(
        f"memory: evaluate of an NPZ of {size} x {size}, network an eighth as wide, all processes",
        rows,
        rounds=rounds_of(timings),
    )
    if len(counts) > 1:
        table.notes += _extrapolated(counts, [timing.peak_bytes for timing in timings])
    return table


def _extrapolated(counts: list[int], peaks: list[int]) -> list[str]:
    """What the slope says of 50,000 images."""
    slope = (peaks[-1] - peaks[0]) / (counts[-1] - counts[0])
    narrow = peaks[0] + slope * (_TARGET_IMAGES - counts[0])
    full = narrow + (FULL_ROW_BYTES - NARROW_ROW_BYTES) * _TARGET_IMAGES
    return [
        f"{slope / 1024:.1f} KiB an image, of which the table of features"
        f" {NARROW_ROW_BYTES / 1024:.1f} (at full width {FULL_ROW_BYTES / 1024:.1f})",
        f"at {_TARGET_IMAGES} images {narrow / GB:.2f} GB; with the table of full width"
        f" {full / GB:.2f} GB; the bound is {_BOUND_BYTES / GB:.2f} GB beyond the weights",
    ]


def _scoring(bench: Bench) -> Table:
    options = bench.options
    command = [*WORKER, "scoring"]
    command += ["--count", str(options.scoring_images)]
    command += ["--reference-count", str(options.scoring_reference)]
    with Contestant("scoring", [command]) as way:
        usage, answers = way.run()
    table_bytes = FULL_ROW_BYTES * options.scoring_images
    row = {"images": options.scoring_images, "s": usage.wall_s, "CPU s": usage.cpu_s}
    row |= {"peak GB": usage.peak_bytes / GB, "of which before GB": usage.start_bytes / GB}
    row |= {f"{name} s": seconds for name, seconds in answers[0]["seconds"].items()}
    return Table(
        f"memory: metrics of random features of full width against {options.scoring_reference}",
        [row],
        [f"the table of features takes {table_bytes / GB:.2f} GB of it"],
        rounds_of([Timing("scoring", [usage])]),
    )
