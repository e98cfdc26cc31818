"""Simulate whether the reported error of a Frechet distance is the spread that repeats show.

Each cell draws many sample sets from one distribution, scores each against one fixed reference, and
compares the reported standard errors with the spread of the distances, and the 95 % intervals with
their mean: E[FID at this N], bias included. The paired columns do the same for the difference of
two sets that share noise.

    python -m jobs.evaluator.simulate_errors --json build/errors.json > build/errors.md
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalsuite.metrics.frechet import (
    FrechetFit,
    ReferenceFactor,
    frechet_fit,
    halved_influence,
    reference_factor,
)
from evalsuite.metrics.intervals import (
    HalvedInfluence,
    paired_standard_error,
    standard_error,
    standard_error_from_halves,
)
from evalsuite.metrics.moments import moments_of

NUM_CLASSES = 8
REFERENCE_PER_DIM = 200
QUANTILE = 1.959963984540054
EXPECTED_COVERAGE = (93.0, 98.0)
Floats = NDArray[np.float64]
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "relu-gaussian": lambda rng, shape: rng.standard_normal(shape),
    "student-t 5": lambda rng, shape: rng.standard_t(5, shape) * np.sqrt(3 / 5),
    "radial t 10": lambda rng, shape: (
        rng.standard_normal(shape) * np.sqrt(8 / rng.chisquare(10, (shape[0], 1)))
    ),
}
DISTANCES = {"near": (1.02, 0.002), "far": (1.3, 0.03)}
"""Scale and shift of samples against the reference; the paired set has 2 % and 0.002 more."""


@dataclass(frozen=True)
class Cell:
    """One situation.

    Attributes:
        distribution: key of `DISTRIBUTIONS`; eight classes have centres of their own.
        distance: key of `DISTANCES`.
        samples_per_dim: N / D.
        balanced: class counts are fixed and the error is that within classes.
    """

    distribution: str
    distance: str
    samples_per_dim: int
    balanced: bool


@dataclass(frozen=True)
class Check:
    """Reported against observed.

    Attributes:
        observed: standard deviation over repeats.
        ratio_plain: root mean square of the plain reported errors / observed.
        cover_plain: per cent of 95 % intervals that hold the mean over repeats.
        ratio_halves: the same for the errors from halves.
        cover_halves: the same for the errors from halves.
    """

    observed: float
    ratio_plain: float
    cover_plain: float
    ratio_halves: float
    cover_halves: float


@dataclass(frozen=True)
class Outcome:
    """What a cell gave: means over repeats, and checks of one set and of a paired difference."""

    cell: Cell
    mean: float
    single: Check
    mean_difference: float
    paired: Check


class Population:
    """Features with classes, correlated and of uneven variance, as one distribution has them."""

    def __init__(self, distribution: str, dim: int) -> None:
        """Fix the mixing matrix and the class centres; equal for all distributions."""
        rng = np.random.default_rng(7)
        self._noise = DISTRIBUTIONS[distribution]
        self._relu = distribution.startswith("relu")
        rotation_DD = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        self._mix_DD = (rotation_DD * np.geomspace(1.0, 0.1, dim)).T
        self._centres_CD = 0.5 * rng.standard_normal((NUM_CLASSES, dim))

    def draw(self, rng: np.random.Generator, labels_N: NDArray[np.int64]) -> Floats:
        """Features [N, D] of samples with these classes."""
        shape = (len(labels_N), len(self._mix_DD))
        features_ND: Floats = (self._noise(rng, shape) + self._centres_CD[labels_N]) @ self._mix_DD
        return np.maximum(features_ND + 0.1, 0.0) if self._relu else features_ND


def simulate(cell: Cell, dim: int, repeats: int, seed: int = 0) -> Outcome:
    """Draw and score one cell."""
    rng = np.random.default_rng(seed)
    population = Population(cell.distribution, dim)
    labels_N = rng.integers(0, NUM_CLASSES, REFERENCE_PER_DIM * dim)
    reference = reference_factor(moments_of(population.draw(rng, labels_N)))
    count = cell.samples_per_dim * dim
    values, differences = [], []
    errors: list[tuple[float, float]] = []
    paired_errors: list[tuple[float, float]] = []
    scale, shift = DISTANCES[cell.distance]
    for _ in range(repeats):
        labels_N = _labels(rng, count, cell.balanced)
        strata_N = labels_N if cell.balanced else None
        features_ND = population.draw(rng, labels_N)
        a, a_halved = _score(features_ND * scale + shift, reference, strata_N)
        b, b_halved = _score(features_ND * (scale * 1.02) + shift + 0.002, reference, strata_N)
        values.append(a.value)
        differences.append(a.value - b.value)
        errors.append(
            (
                standard_error(a_halved.influence_N, strata_N),
                standard_error_from_halves(a_halved, strata_N),
            )
        )
        paired_errors.append(
            (
                paired_standard_error(a_halved.influence_N, b_halved.influence_N, strata_N),
                _paired_from_halves(a_halved, b_halved, strata_N),
            )
        )
    return Outcome(
        cell,
        float(np.mean(values)),
        _check(values, errors),
        float(np.mean(differences)),
        _check(differences, paired_errors),
    )


def grid(samples_per_dim: Iterable[int] = (5, 25)) -> list[Cell]:
    """All cells."""
    return [
        Cell(*parts)
        for parts in itertools.product(DISTRIBUTIONS, DISTANCES, samples_per_dim, (False, True))
    ]


def markdown(outcomes: Iterable[Outcome]) -> str:
    """A table with a row for each cell; coverage outside the expected range is marked."""
    lines = [
        "| features | from reference | D/N | labels | FID | spread | plain | halves "
        "| difference | spread | plain | halves |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for outcome in outcomes:
        cell = outcome.cell
        cells = (
            cell.distribution,
            cell.distance,
            f"{1 / cell.samples_per_dim:.2g}",
            "balanced" if cell.balanced else "random",
            f"{outcome.mean:.4g}",
            *_columns(outcome.single),
            f"{outcome.mean_difference:.3g}",
            *_columns(outcome.paired),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _labels(rng: np.random.Generator, count: int, balanced: bool) -> NDArray[np.int64]:
    return np.arange(count) % NUM_CLASSES if balanced else rng.integers(0, NUM_CLASSES, count)


def _score(
    features_ND: Floats, reference: ReferenceFactor, strata_N: NDArray[np.int64] | None
) -> tuple[FrechetFit, HalvedInfluence]:
    fit = frechet_fit(moments_of(features_ND), reference)
    return fit, halved_influence(features_ND, fit, reference, strata_N)


def _paired_from_halves(
    a: HalvedInfluence, b: HalvedInfluence, strata_N: NDArray[np.int64] | None
) -> float:
    """`standard_error_from_halves` of a difference whose samples share noise, label and halves."""
    difference = HalvedInfluence(
        a.influence_N - b.influence_N, a.in_halves_N - b.in_halves_N, a.halves_N
    )
    return standard_error_from_halves(difference, strata_N)


def _check(values: list[float], errors: list[tuple[float, float]]) -> Check:
    values_R, errors_RE = np.array(values), np.array(errors)
    observed = float(values_R.std(ddof=1))
    ratios = np.sqrt(np.mean(errors_RE**2, axis=0)) / observed
    off_R = np.abs(values_R - values_R.mean())
    covers = 100 * np.mean(off_R[:, None] <= QUANTILE * errors_RE, axis=0)
    return Check(observed, float(ratios[0]), float(covers[0]), float(ratios[1]), float(covers[1]))


def _columns(check: Check) -> tuple[str, str, str]:
    low, high = EXPECTED_COVERAGE

    def of(ratio: float, cover: float) -> str:
        mark = "" if low <= cover <= high else "**"
        return f"{ratio:.2f}, {mark}{cover:.1f} %{mark}"

    return (
        f"{check.observed:.3g}",
        of(check.ratio_plain, check.cover_plain),
        of(check.ratio_halves, check.cover_halves),
    )


def main() -> None:
    """Run the grid; Markdown on stdout, JSON beside it if asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--samples-per-dim", type=int, nargs="+", default=[5, 25])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    began = time.process_time()
    cells = grid(args.samples_per_dim)
    outcomes = [simulate(cell, args.dim, args.repeats, seed) for seed, cell in enumerate(cells)]
    print(markdown(outcomes), end="")
    seconds = time.process_time() - began
    if args.json:
        record = {
            "dim": args.dim,
            "repeats": args.repeats,
            "cpu_seconds": round(seconds, 1),
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
