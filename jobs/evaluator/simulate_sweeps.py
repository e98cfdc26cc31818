"""How often does a rung exclude the true winner of a sweep, by plain and by extrapolated distances?

Settings of a sweep are Gaussians around a known reference that share most of their noise; the best
one spreads most, so that the bias of a finite N favours all others. For each number of samples it
counts the sweeps in which the 95 % paired interval against the leader excludes the true winner: of
plain FID, of the extrapolated distance, and of that widened by its last step, as `evalsuite sweep`
judges (which widens further, for all comparisons of a sweep).

    python -m jobs.evaluator.simulate_sweeps --dim 256
    python -m jobs.evaluator.simulate_sweeps --dim 2048 --per-dim 1 --num-sweeps 20 --json out.json

At 2,048 dimensions a sweep takes some 2 minutes on a core; it goes through `--threads` of them.
"""

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.metrics.frechet import ReferenceFactor, frechet_fit, reference_factor
from evalsuite.metrics.frechet_limit import frechet_limit
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.sweep.judging import Judged, judge

SPREADS = (1.01, 0.97, 0.93, 0.85)
"""Settings by how far their samples spread: more guidance, less spread."""
SHIFTS = (0.06, 0.066, 0.036, 0.11)
"""Of the mean, in standard deviations of every dimension."""
SHARED = 0.99
"""Correlation of the noise of two settings with what all share."""
NAMES = tuple(f"spread {spread:g}" for spread in SPREADS)


class Counts(NamedTuple):
    """Sweeps at one number of samples.

    Attributes:
        num_samples: N.
        num_sweeps: how many.
        by_plain: in which plain FID excludes the true winner.
        by_limit: in which the extrapolated distance does.
        by_widened: in which it does beyond what its last step has moved.
        power: share of the other settings that are excluded by the widened interval.
    """

    num_samples: int
    num_sweeps: int
    by_plain: int
    by_limit: int
    by_widened: int
    power: float


def reference(dim: int, decay: float) -> tuple[NDArray[np.float64], ReferenceFactor]:
    """Standard deviations [D], whose squares fall as 1/k^decay and have mean 1; the reference."""
    variances_D = np.arange(1, dim + 1, dtype=np.float64) ** -decay
    variances_D *= dim / variances_D.sum()
    known = Moments(10**9, np.zeros(dim), np.diag(variances_D))
    return np.sqrt(variances_D), reference_factor(known)


def true_distances(deviations_D: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every setting: |shift|^2 + (spread - 1)^2 times the sum of variances."""
    total = float(deviations_D @ deviations_D)
    return total * (np.square(SHIFTS) + np.square(np.subtract(SPREADS, 1)))


def count(num_samples: int, num_sweeps: int, dim: int, decay: float, seed: int) -> Counts:
    """Sweeps of `num_samples` for each setting."""
    deviations_D, factor = reference(dim, decay)
    best = NAMES[int(true_distances(deviations_D).argmin())]
    rng = np.random.default_rng((seed, num_samples))
    found = [0, 0, 0]
    others = 0
    for _ in range(num_sweeps):
        shared_ND = rng.standard_normal((num_samples, dim))
        plain: dict[str, Judged] = {}
        limits: dict[str, Judged] = {}
        for name, spread, shift in zip(NAMES, SPREADS, SHIFTS, strict=True):
            own_ND = rng.standard_normal((num_samples, dim))
            noise_ND = SHARED * shared_ND + math.sqrt(1 - SHARED**2) * own_ND
            features_ND = (spread * noise_ND + shift) * deviations_D
            fit = frechet_fit(moments_of(features_ND), factor)
            plain[name] = Judged(fit.value, fit.influence(features_ND))
            limit = frechet_limit(features_ND, factor)
            drift = limit.value - limit.coarser
            limits[name] = Judged(limit.value, limit.influence_N, None, drift)
        bare = {name: one._replace(drift=0.0) for name, one in limits.items()}
        for place, judged in enumerate((plain, bare, limits)):
            excluded = _excluded(judged)
            found[place] += best in excluded
        others += len(excluded - {best})
    power = others / num_sweeps / (len(NAMES) - 1)
    return Counts(num_samples, num_sweeps, found[0], found[1], found[2], power)


def _excluded(judged: dict[str, Judged]) -> set[str]:
    """By intervals of 95 % each, where the sweep's own hold all at once."""
    pairs = [
        judge(
            {name: judged[name], leader: judged[leader]}, better="lower", num_rungs=1, strata_N=None
        )
        for leader in [min(judged, key=lambda name: judged[name].value)]
        for name in judged
        if name != leader
    ]
    return {verdict.name for pair in pairs for verdict in pair if verdict.excluded}


def main() -> None:
    """Print a row for each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--per-dim", type=float, nargs="+", default=[1, 2, 4], help="N / D")
    parser.add_argument("--decay", type=float, default=0.0, help="of the spectrum; 0 is flat")
    parser.add_argument("--num-sweeps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for per_dim in args.per_dim:
        num_samples = round(per_dim * args.dim)
        row = count(num_samples, args.num_sweeps, args.dim, args.decay, args.seed)
        rows.append(row._asdict())
        print(
            f"D {args.dim}, N {num_samples}: of {row.num_sweeps} sweeps the true winner is excluded"
            f" by plain FID in {row.by_plain}, by the extrapolated distance in {row.by_limit},"
            f" widened in {row.by_widened}; of the others {row.power:.0%} are",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
