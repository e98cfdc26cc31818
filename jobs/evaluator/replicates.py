"""Do reported errors of metrics equal the spread that disjoint replicates of a real model show?

Generates replicates of the digits model that share no sample, with balanced and with random labels,
by four plans that share noise and labels: the preset, more guidance, another solver, an earlier
checkpoint. Every replicate is scored; each metric's reported errors are compared with the
spread of its values, and 95 % intervals with the mean, for single plans and paired differences.

    python -m jobs.digits.train_denoiser --out early.safetensors --stop-after 700
    python -m jobs.evaluator.replicates generate --early early.safetensors --out build/replicates
    python -m jobs.evaluator.replicates score build/replicates --json build/replicates.json

Minutes on a GPU; hours on a CPU (`--num-replicates 4 --num-samples 500` for a try).
"""

import argparse
import concurrent.futures
import itertools
import json
import math
import multiprocessing
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.references import open_reference
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.features.aligned import concatenate, extract_all
from evalsuite.metrics.intervals import paired_standard_error
from evalsuite.metrics.registry import compute_metrics
from evalsuite.metrics.values import ReferenceData, SampleData
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.reference_data import prepare_reference
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.pipeline.worker import load_extractor

METRICS = (
    "fid",
    "sfid",
    "inception_score",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
)
PLANS: dict[str, dict[str, Any]] = {
    "preset": {},
    "guidance": {"guidance_scale": 2.2},
    "solver": {"solver": "euler"},
    "checkpoint": {},
}
RULES = ("balanced", "random")
QUANTILE = 1.959963984540054
Floats = NDArray[np.float64]


class Scores(NamedTuple):
    """Values, errors and influence of one replicate, by metric."""

    values: dict[str, float]
    errors: dict[str, float]
    influence: dict[str, Floats]
    strata_N: NDArray[np.int64] | None


@dataclass(frozen=True)
class Cell:
    """Reported against observed.

    Attributes:
        what: a plan, or two of them whose difference it is.
        labels: balanced or random.
        num_samples: N of each replicate.
        num_replicates: R.
        metric: its name.
        mean: over replicates.
        observed: standard deviation over replicates.
        ratio: root mean square of the reported errors / observed.
        coverage: per cent of 95 % intervals that hold the mean of the other replicates, whose own
            error is added.
        unpaired: of a difference: root mean square of the errors without pairing / observed.
    """

    what: str
    labels: str
    num_samples: int
    num_replicates: int
    metric: str
    mean: float
    observed: float
    ratio: float | None
    coverage: float | None
    unpaired: float | None = None


def generate(args: argparse.Namespace) -> None:
    """Write the features of every plan, rule and replicate."""
    device = resolve_device(args.device)
    spec = load_spec(ExtractorSpec, "digits-convnet").model_copy(update={"batch_size": 500})
    extractor = load_extractor(spec, device)
    args.out.mkdir(parents=True, exist_ok=True)
    for plan_name, rule in itertools.product(PLANS, RULES):
        if plan_name == "checkpoint" and args.early is None:
            continue
        tables, labels = [], []
        for replicate in range(args.num_replicates):
            sampler = BatchSampler(*_plan(plan_name, rule, replicate, args), device)
            rows = sampler.batch(0).rows
            features = concatenate(extract_all(extractor, [rows.images_NHWC]))
            tables.append(FeatureTable(0, *features))
            labels.append(rows.labels)
        arrays = [np.stack([table[i] for table in tables]) for i in (1, 2, 3)]
        names = ("pool", "spatial", "probabilities")
        np.savez(
            args.out / f"{plan_name}-{rule}.npz",
            labels=np.array(labels),
            **dict(zip(names, arrays, strict=True)),
        )
        print(f"{plan_name}, {rule} labels: {args.num_replicates} replicates", flush=True)


def _plan(name: str, rule: str, replicate: int, args: argparse.Namespace) -> tuple[Any, Any]:
    """Plans of one replicate and rule share seeds and labels whatever their name."""
    weights = WeightsRequest(str(args.early)) if name == "checkpoint" else WeightsRequest()
    found = resolve_plan(
        PlanOptions(
            model="pixnerd-digits",
            weights=weights,
            replicate=replicate,
            labels="modulo" if rule == "balanced" else f"random:{replicate}",
            batch_size=args.num_samples,
            sampling={"num_steps": args.num_steps} | PLANS[name],
        )
    )
    return found.plan, found.materials


def score(args: argparse.Namespace) -> None:
    """Score every replicate, and print and keep the cells."""
    cells: list[Cell] = []
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.processes, mp_context=spawn) as pool:
        for rule, count in itertools.product(RULES, args.counts):
            by_plan = {
                name: _scored(args.folder / f"{name}-{rule}.npz", count, rule, pool)
                for name in PLANS
                if (args.folder / f"{name}-{rule}.npz").is_file()
            }
            cells += cells_of(by_plan, rule, count)
            if args.json is not None:
                args.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    print(table_of(cells))


def _scored(path: Path, count: int, rule: str, pool: concurrent.futures.Executor) -> list[Scores]:
    """Replicates of `count` samples each, cut from the stored ones."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    pieces = []
    for replicate in range(len(arrays["labels"])):
        for start in range(0, arrays["labels"].shape[1] - count + 1, count):
            rows = slice(start, start + count)
            pieces.append({name: array[replicate, rows] for name, array in arrays.items()})
    return list(pool.map(_score_one, pieces, itertools.repeat(rule), chunksize=4))


_REFERENCE: list[ReferenceData] = []


def _score_one(piece: dict[str, Any], rule: str) -> Scores:
    """One replicate; the reference is made ready once in each process."""
    torch.set_num_threads(1)
    protocol = load_spec(ProtocolSpec, "digits")
    if not _REFERENCE:
        spec = load_spec(ExtractorSpec, "digits-convnet")
        reference = open_reference("digits-16-train")
        measure = Measure(spec, reference, METRICS, torch.device("cpu"), protocol)
        prepared = prepare_reference(measure)
        assert prepared is not None
        _REFERENCE.append(prepared.data)
    strata = piece["labels"].astype(np.int64) if rule == "balanced" else None
    data = SampleData(piece["pool"], piece["spatial"], piece["probabilities"], strata)
    found = compute_metrics(METRICS, data, _REFERENCE[0], protocol)
    return Scores(
        {name: value.value for name, value in found.items()},
        {
            name: math.nan if value.standard_error is None else value.standard_error
            for name, value in found.items()
        },
        {n: v.influence_N for n, v in found.items() if v.influence_N is not None},
        strata,
    )


def cells_of(by_plan: dict[str, list[Scores]], rule: str, count: int) -> Iterable[Cell]:
    """Cells of every plan, and of every difference from the first one."""
    first = next(iter(by_plan))
    for (name, scores), metric in itertools.product(by_plan.items(), METRICS):
        values = np.array([s.values[metric] for s in scores])
        errors = np.array([s.errors[metric] for s in scores])
        yield _cell(name, rule, count, metric, values, errors)
        if name != first:
            others = by_plan[first]
            differences = values - np.array([s.values[metric] for s in others])
            theirs = np.array([s.errors[metric] for s in others])
            apart = np.sqrt(errors**2 + theirs**2)
            paired = apart
            if metric in scores[0].influence:
                paired = np.array(
                    [
                        paired_standard_error(a.influence[metric], b.influence[metric], a.strata_N)
                        for a, b in zip(scores, others, strict=True)
                    ]
                )
            what = f"{name} - {first}"
            yield _cell(what, rule, count, metric, differences, paired, apart)


def _cell(
    what: str,
    rule: str,
    count: int,
    metric: str,
    values: Floats,
    errors: Floats,
    apart: Floats | None = None,
) -> Cell:
    observed = float(values.std(ddof=1))
    known = bool(np.isfinite(errors).all()) and observed > 0
    others = (values.sum() - values) / (len(values) - 1)
    width = QUANTILE * np.sqrt(errors**2 + observed**2 / (len(values) - 1))
    inside = np.abs(values - others) <= width
    ratio = float(np.sqrt(np.mean(errors**2)) / observed) if known else None
    unpaired = None
    if apart is not None and known and not np.array_equal(apart, errors):
        unpaired = float(np.sqrt(np.mean(apart**2)) / observed)
    return Cell(
        what,
        rule,
        count,
        len(values),
        metric,
        float(values.mean()),
        observed,
        ratio,
        100 * float(inside.mean()) if known else None,
        unpaired,
    )


def table_of(cells: Iterable[Cell]) -> str:
    """The cells as a Markdown table."""
    lines = [
        "| what | labels | N | R | metric | mean | observed | reported / observed | covers |"
        " unpaired |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        ratio, unpaired = ("-" if v is None else f"{v:.2f}" for v in (c.ratio, c.unpaired))
        covers = "-" if c.coverage is None else f"{c.coverage:.1f} %"
        lines.append(
            f"| {c.what} | {c.labels} | {c.num_samples} | {c.num_replicates} | {c.metric} |"
            f" {c.mean:.4f} | {c.observed:.4f} | {ratio} | {covers} | {unpaired} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("generate", help="features of all replicates")
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--early", type=Path, help="weights of an earlier checkpoint")
    make.add_argument("--num-replicates", type=int, default=40)
    make.add_argument("--num-samples", type=int, default=2000)
    make.add_argument("--num-steps", type=int, default=15, help="fewer are quicker")
    make.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    make.set_defaults(run=generate)
    check = commands.add_parser("score", help="reported errors against the spread")
    check.add_argument("folder", type=Path)
    check.add_argument("--counts", type=int, nargs="+", default=[500, 2000])
    check.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    check.add_argument("--json", type=Path)
    check.set_defaults(run=score)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
