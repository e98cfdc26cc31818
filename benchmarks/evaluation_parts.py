"""The parts of the benchmark of the evaluator that alternate ours with other programs.

Legend: N samples, M reference images, D feature dimensions.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contestants import Contestant, Timing, alternate
from benchmarks.evaluation_inputs import (
    extractor_file,
    network_file,
    random_features,
    write_features,
    write_images,
)
from benchmarks.evaluation_tables import Table, compared
from benchmarks.watching import observe

WORKER = (sys.executable, "-m", "benchmarks.evaluation_worker")
PEER = ("-m", "benchmarks.evaluation_peer")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_SPATIAL = "ours, spatial"
_PYTORCH_FID_FILE = "hub/checkpoints/pt_inception-2015-12-05-6726825d.pth"


class Bench(NamedTuple):
    """The command line, and a folder for what is made on the way."""

    options: argparse.Namespace
    folder: Path

    def network(self, kind: str, divisor: int = 1) -> Path:
        """A file of the synthetic network."""
        return network_file(self.options.network or self.folder, kind, divisor)


def words(**values: object) -> list[str]:
    """Options of a contestant's command."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def features(bench: Bench) -> list[Table]:
    """Images per second of the networks."""
    options = bench.options
    count, cores = options.images, options.cores
    npz = write_images(bench.folder / "images.npz", count, options.size, 1)
    extractor = extractor_file(bench.folder, bench.network(".pb"))
    saved = {name: bench.folder / f"features-{name}" for name in ("ours", "ADM", "torch-fidelity")}
    adm = [*WORKER, "adm-features"]
    adm += words(samples=npz, weights=bench.network(".pb"), save=saved["ADM"])
    with ExitStack() as stack:
        ways = [
            Contestant("ours", _ours(bench, npz, extractor, count), ONE_THREAD),
            Contestant("ADM", [adm]),
            *_peers(bench, npz, saved["torch-fidelity"]),
        ]
        for way in ways:
            stack.enter_context(way)
            way.run()  # warms up what is made once
        timings = alternate({way.name: way.run for way in ways}, options.rounds)
    differences = _differences(bench, cores)
    title = (
        f"features: {count} images of {options.size} x {options.size} from an NPZ, {cores} cores;"
        f" ours in {cores} processes of one thread, the others in one process"
    )
    facts = {name: {"max |d| of pool": differences.get(name)} for name in timings}
    table = compared(title, timings, "ours", images=count, facts=facts)
    table.notes.append(f"max |d| of our spatial features to ADM's: {differences[_SPATIAL]:.2g}")
    table.notes.append("pytorch-fid resizes otherwise, so its features are other ones")
    return [table]


def _ours(bench: Bench, npz: Path, extractor: Path, count: int) -> list[list[str]]:
    """A process for each core, with whole batches each."""
    cores = bench.options.cores
    bounds = [round(count * k / cores) for k in range(cores + 1)]
    commands = []
    for k in range(cores):
        own = words(start=bounds[k], stop=bounds[k + 1], save=bench.folder / f"features-ours-{k}")
        common = words(samples=npz, extractor=extractor)
        commands.append([*WORKER, "features", *common, *own])
    return commands


def _peers(bench: Bench, npz: Path, saved: Path) -> list[Contestant]:
    options = bench.options
    if options.peers_python is None:
        return []
    home = bench.folder / "torch-home"
    link = home / _PYTORCH_FID_FILE
    link.parent.mkdir(parents=True)
    link.symlink_to(bench.network("_pf.pth").resolve())
    common = words(samples=npz, threads=options.cores)
    commands = {
        "torch-fidelity": ["fidelity", *words(weights=bench.network("_tf.pth"), save=saved)],
        "pytorch-fid": ["pytorch-fid", *words(save=bench.folder / "features-pytorch-fid")],
    }
    return [
        Contestant(
            name, [[str(options.peers_python), *PEER, *own, *common]], {"TORCH_HOME": str(home)}
        )
        for name, own in commands.items()
    ]


def _differences(bench: Bench, cores: int) -> dict[str, float]:
    """Largest differences of pooled features to those of the TensorFlow graph, by program."""
    adm = np.load(bench.folder / "features-ADM.npz")
    parts = [np.load(bench.folder / f"features-ours-{k}.npz") for k in range(cores)]
    found = {
        name: float(np.abs(np.concatenate([part[key] for part in parts]) - adm[key]).max())
        for name, key in (("ours", "pool"), (_SPATIAL, "spatial"))
    }
    for name in ("torch-fidelity", "pytorch-fid"):
        path = bench.folder / f"features-{name}.npy"
        if path.exists():
            found[name] = float(np.abs(np.load(path) - adm["pool"]).max())
    return found


def frechet(bench: Bench) -> list[Table]:
    """The Frechet distance against `scipy.linalg.sqrtm`, at full rank and below it."""
    from benchmarks.adm_route import frechet_by_sqrtm, statistics_of
    from evalsuite.metrics.frechet import frechet_distance, reference_factor
    from evalsuite.metrics.moments import moments_of

    options = bench.options
    reference_MD = random_features(max(options.frechet_samples), options.dim, 2)
    reference, theirs = moments_of(reference_MD), statistics_of(reference_MD)
    factor = reference_factor(reference)
    tables = []
    for count in options.frechet_samples:
        features_ND = random_features(count, options.dim, 1, shift=0.05)
        sample, their_sample = moments_of(features_ND), statistics_of(features_ND)
        ways: dict[str, Callable[[], Any]] = {
            "ours": partial(frechet_distance, sample, reference),
            "ours, reference kept": partial(frechet_distance, sample, factor),
            "ADM (scipy sqrtm)": partial(frechet_by_sqrtm, their_sample, theirs),
        }
        ways["ours"]()  # warms up what is made once
        timings = alternate(
            {name: partial(observe, [os.getpid()], run) for name, run in ways.items()},
            options.rounds,
        )
        title = (
            f"Frechet distance: D = {options.dim}, {count} samples against"
            f" {len(reference_MD)} reference images, moments given"
        )
        facts = {name: {"value": f"{t.result:.9g}"} for name, t in timings.items()}
        table = compared(title, timings, "ours", facts=facts)
        for row in table.rows:  # of one process, in which all of them live
            del row["peak GB"], row["x peak"]
        table.notes.append(f"relative difference of ours: {_relative(timings):.1e}")
        tables.append(table)
    return tables


def _relative(timings: dict[str, Timing]) -> float:
    adm = float(timings["ADM (scipy sqrtm)"].result)
    return abs(float(timings["ours"].result) - adm) / abs(adm)


def neighbours(bench: Bench) -> list[Table]:
    """Precision and recall."""
    options = bench.options
    count, dim = options.neighbours, options.dim
    paths = {
        "samples": write_features(bench.folder / "samples.npy", count, dim, 1, shift=0.02),
        "reference": write_features(bench.folder / "reference.npy", count, dim, 2),
    }
    ours = [*WORKER, "neighbours", *words(**paths)]
    weights = bench.network(".pb", 8)  # TensorFlow wants a graph; the distances need none
    commands: dict[str, Sequence[str]] = {
        "ours": ours,
        "ours, radii kept": [*ours, "--kept"],
        "ADM": [*WORKER, "adm-neighbours", *words(weights=weights, **paths)],
        "ours in float32": [*ours, "--arithmetic", "float32"],
    }
    if options.peers_python is not None:
        peer = [str(options.peers_python), *PEER, "fidelity-prc"]
        commands["torch-fidelity"] = peer + words(threads=options.cores, **paths)
    with ExitStack() as stack:
        ways = [stack.enter_context(Contestant(name, [c])) for name, c in commands.items()]
        timings = alternate({way.name: way.run for way in ways}, options.rounds)
    title = (
        f"precision and recall: {count} samples, {count} reference images, D = {dim};"
        " ours with density, coverage and standard errors"
    )
    facts = {
        name: {key: f"{timing.result[0][key]:.5f}" for key in ("precision", "recall")}
        for name, timing in timings.items()
    }
    table = compared(title, timings, "ours", facts=facts)
    table.notes.append("ADM and ours compute in ADM's float16; torch-fidelity in float32")
    return [table]
