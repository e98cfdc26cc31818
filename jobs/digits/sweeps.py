"""Does halving keep the full grid's winner, on a real model, and with how many samples?

Generates every configuration of a grid over guidance and steps for disjoint replicates of the
digits model, once. On each replicate the grid is judged on its last rung, and halving is carried
out on the same samples by the functions of `evalsuite sweep`: with the narrow digits features, and
with these widened to about 1,024 by a fixed random layer, where the first rung has as many samples
as there are features.

    python -m jobs.digits.sweeps --out build/sweeps
    python -m jobs.digits.sweeps --out build/sweeps-tiny --num-sweeps 2 --last 400 --width 128

Goes on where it was ended: features, and what configurations are ranked by, are files. By the rates
of the preset, at most 10 minutes on one H200 (less with `--batch-size 1000`), and on one CPU core
some 2.5 hours to generate and 1 to judge, which `--processes` shares out.
"""

import argparse
import concurrent.futures
import itertools
import json
import math
import multiprocessing
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.references import open_reference
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.features.aligned import concatenate, extract_all
from evalsuite.features.base import Extractor
from evalsuite.metrics.frechet import ReferenceFactor, frechet_fit, reference_factor
from evalsuite.metrics.frechet_limit import RANKED_SAMPLES_PER_DIM, frechet_limit
from evalsuite.metrics.frechet_metrics import EXTRAPOLATION_SAMPLES_PER_DIM
from evalsuite.metrics.moments import moments_of
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.reference_data import prepare_reference
from evalsuite.pipeline.worker import load_extractor
from evalsuite.sweep.axes import Configuration, axes_of, combinations, options_with
from evalsuite.sweep.judging import Judged, Verdict, judge

MODEL, CLASSES = "pixnerd-digits", 10
LAYER_SEED = 0
FIRST_NARROW = 250
Features = NDArray[np.float32]


class Width(NamedTuple):
    """Features by which a sweep is judged.

    Attributes:
        name: `narrow` or `wide`.
        dim: of the features; 0 leaves the digits features as they are.
        rungs: numbers of samples.
    """

    name: str
    dim: int
    rungs: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """One sweep.

    Attributes:
        width: `narrow` or `wide`.
        replicate: of its samples.
        grid_winner: that every configuration on the last rung gives.
        halving_winner: that halving gives.
        kept: whether halving kept the grid's winner to the end.
        level: whether the grid's interval of the two winners' difference holds 0.
        samples_percent: of the grid's samples that halving needs.
    """

    width: str
    replicate: int
    grid_winner: str
    halving_winner: str
    kept: bool
    level: bool
    samples_percent: float


def widened(features_ND: Features, dim: int) -> Features:
    """Features [N, dim] of a fixed random layer with a ReLU; dim 0 leaves them as they are."""
    if not dim:
        return features_ND
    rng = np.random.default_rng(LAYER_SEED)
    width = features_ND.shape[1]
    layer = rng.standard_normal((width, dim)) / math.sqrt(width)
    bias = rng.standard_normal(dim)
    hidden = np.maximum(features_ND.astype(np.float64) @ layer + bias, 0.0)
    return hidden.astype(np.float32)


@dataclass
class _Maker:
    """What one process makes features with; weights are read once."""

    sampler: BatchSampler | None = None
    extractor: Extractor | None = None

    def make(self, args: argparse.Namespace, replicate: int, one: Configuration) -> str:
        """Write the features [N, 64] of one configuration and replicate."""
        torch.set_num_threads(1)
        device = resolve_device(args.device)
        if self.extractor is None:
            spec = load_spec(ExtractorSpec, "digits-convnet").model_copy(update={"batch_size": 50})
            self.extractor = load_extractor(spec, device)
        base = PlanOptions(MODEL, replicate=replicate, batch_size=args.batch_size)
        resolved = resolve_plan(options_with(base, one.setting))
        if self.sampler is None:
            self.sampler = BatchSampler(resolved.plan, resolved.materials, device)
        self.sampler.retarget(resolved.plan, resolved.materials)
        features_ND = _features(self.sampler, self.extractor, args.last)
        _save(features_path(args.out, replicate, one.name), features_ND)
        return f"replicate {replicate}: {one.name}"


_MAKER = _Maker()


def _make(args: argparse.Namespace, replicate: int, one: Configuration) -> str:
    return _MAKER.make(args, replicate, one)


def generate(
    args: argparse.Namespace, configurations: list[Configuration], pool: concurrent.futures.Executor
) -> None:
    """Write the features of every configuration and replicate that is not there."""
    asked = []
    for replicate, one in itertools.product(range(args.num_sweeps), configurations):
        path = features_path(args.out, replicate, one.name)
        if not path.exists() or len(np.load(path, mmap_mode="r")) < args.last:
            asked.append(pool.submit(_make, args, replicate, one))
    for made in concurrent.futures.as_completed(asked):
        print(made.result(), flush=True)


def _features(sampler: BatchSampler, extractor: Extractor, count: int) -> Features:
    batches = -(-count // sampler.plan.batch_size)
    images = (sampler.batch(index).rows.images_NHWC for index in range(batches))
    features: Features = concatenate(extract_all(extractor, images)).pool_ND[:count]
    return features


def features_path(out: Path, replicate: int, name: str) -> Path:
    """Where the features of a configuration lie."""
    return out / f"replicate-{replicate:02d}" / f"{name.replace(', ', '-')}.npy"


def _save(path: Path, array: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


_FACTORS: dict[int, ReferenceFactor] = {}


def _factor(dim: int) -> ReferenceFactor:
    """The reference of one width, factorised once in each process."""
    if dim not in _FACTORS:
        spec, reference = (
            load_spec(ExtractorSpec, "digits-convnet"),
            open_reference("digits-16-train"),
        )
        protocol = load_spec(ProtocolSpec, "digits")
        measure = Measure(spec, reference, ["precision"], torch.device("cpu"), protocol)
        prepared = prepare_reference(measure)
        assert prepared is not None
        assert prepared.data.features_MD is not None
        _FACTORS[dim] = reference_factor(moments_of(widened(prepared.data.features_MD, dim)))
    return _FACTORS[dim]


def judged(path: Path, dim: int, rung: int) -> Judged:
    """What a configuration is ranked by on a rung, as `evalsuite sweep` does it; kept in a file."""
    kept = path.with_name(f"{path.stem}-{dim}-{rung}.npz")
    if not kept.exists():
        torch.set_num_threads(1)
        features_ND = widened(np.load(path, mmap_mode="r")[:rung], dim)
        strata_N, factor = np.arange(rung) % CLASSES, _factor(dim)
        if rung < EXTRAPOLATION_SAMPLES_PER_DIM * features_ND.shape[1]:
            limit = frechet_limit(features_ND, factor, strata_N)
            value, influence_N, drift = limit.value, limit.influence_N, limit.value - limit.coarser
        else:
            fit = frechet_fit(moments_of(features_ND), factor)
            value, influence_N, drift = fit.value, fit.influence(features_ND), 0.0
        temporary = kept.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, value=value, influence_N=influence_N, drift=drift)
        temporary.replace(kept)
    with np.load(kept, allow_pickle=False) as file:
        return Judged(float(file["value"]), file["influence_N"], None, float(file["drift"]))


def sweep_once(
    args: argparse.Namespace,
    width: Width,
    replicate: int,
    names: list[str],
    pool: concurrent.futures.Executor,
) -> Outcome:
    """The grid and halving on the samples of one replicate."""

    def verdicts(alive: list[str], rung: int) -> list[Verdict]:
        paths = [features_path(args.out, replicate, name) for name in alive]
        found = pool.map(judged, paths, itertools.repeat(width.dim), itertools.repeat(rung))
        dim = width.dim or 64
        return judge(
            dict(zip(alive, found, strict=True)),
            better="lower",
            num_rungs=len(width.rungs),
            strata_N=np.arange(rung) % CLASSES,
            may_exclude=rung >= RANKED_SAMPLES_PER_DIM * dim,
        )

    alive, samples, before = names, 0, 0
    ranked: list[Verdict] = []
    for rung in width.rungs:
        samples += len(alive) * (rung - before)
        ranked, before = verdicts(alive, rung), rung
        alive = [one.name for one in ranked if not one.excluded]
    of_grid = verdicts(names, width.rungs[-1])
    best, found = of_grid[0].name, ranked[0].name
    level = found == best or next(not one.excluded for one in of_grid if one.name == found)
    kept = best in {one.name for one in ranked}
    percent = 100 * samples / (len(names) * width.rungs[-1])
    return Outcome(width.name, replicate, best, found, kept, level, percent)


def summary(width: Width, outcomes: list[Outcome]) -> str:
    """One row of the table."""
    count = len(outcomes)
    return (
        f"{width.name:7} {width.dim or 64:5} features, rungs {', '.join(map(str, width.rungs))}:"
        f" {count} sweeps, grid's winner kept in {sum(o.kept for o in outcomes) / count:.0%},"
        f" found or level in {sum(o.level for o in outcomes) / count:.0%},"
        f" samples {sum(o.samples_percent for o in outcomes) / count:.0f} %"
        f" ({max(o.samples_percent for o in outcomes):.0f} % at most)"
    )


def curve(args: argparse.Namespace, configurations: list[Configuration]) -> list[dict[str, object]]:
    """Mean and standard error over replicates of every configuration on the last rung."""
    rows: list[dict[str, object]] = []
    for one in configurations:
        paths = [features_path(args.out, r, one.name) for r in range(args.num_sweeps)]
        values = np.array([judged(path, 0, args.last).value for path in paths])
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        rows.append({**one.setting, "fid": float(values.mean()), "standard_error": error})
    return rows


def _rungs(first: int, last: int) -> tuple[int, ...]:
    """From `first` on, each twice the one before, to `last`."""
    rungs = [first]
    while rungs[-1] * 2 < last:
        rungs.append(rungs[-1] * 2)
    return (*(rung for rung in rungs if rung < last), last)


def main() -> None:
    """Generate what is missing, judge, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-sweeps", type=int, default=20)
    parser.add_argument("--last", type=int, default=8000, help="samples of the last rung")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--guidance-scale", default="0.5,1,1.5,2,3,5")
    parser.add_argument("--num-steps", default="2,3")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    given = {"guidance_scale": args.guidance_scale, "num_steps": args.num_steps}
    configurations = combinations(axes_of(given, MODEL))
    names = [one.name for one in configurations]
    widths = [
        Width("narrow", 0, _rungs(FIRST_NARROW, args.last)),
        Width("wide", args.width, _rungs(-(-args.width // CLASSES) * CLASSES, args.last)),
    ]
    spawn = multiprocessing.get_context("spawn")
    kept: dict[str, object] = {}
    with concurrent.futures.ProcessPoolExecutor(args.processes, mp_context=spawn) as pool:
        generate(args, configurations, pool)
        for width in widths:
            outcomes = []
            for replicate in range(args.num_sweeps):
                outcomes.append(sweep_once(args, width, replicate, names, pool))
                print(json.dumps(asdict(outcomes[-1])), flush=True)
            print(summary(width, outcomes), flush=True)
            kept[width.name] = [asdict(one) for one in outcomes]
    kept["curve"] = curve(args, configurations)
    (args.out / "sweeps.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    for row in kept["curve"] if isinstance(kept["curve"], list) else []:
        print(row)


if __name__ == "__main__":
    main()
