"""The Frechet distance at infinite N from nested subsets, with what each sample contributes to it.

For rankings of settings on few samples, where the bias of a finite N differs from setting to
setting. Legend: N samples, D feature dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.metrics.frechet import (
    HalvedMoments,
    ReferenceFactor,
    frechet_distance,
    frechet_fit,
    frechet_influence,
)
from evalsuite.metrics.intervals import balanced_groups, extrapolated
from evalsuite.metrics.moments import Moments, MomentsAccumulator, check_finite_rows

RANKED_SAMPLES_PER_DIM = 0.5
"""From here on the last step of the extrapolation bounds what it leaves; see `FrechetLimit`."""


@dataclass(frozen=True, eq=False)
class FrechetLimit:
    """An extrapolated distance, and how far it is to be trusted.

    What extrapolation leaves of the bias falls faster than 1/N, so it is at most what the last
    doubling of N has moved: |E(N) - E(inf)| <= |E(N) - E(N/2)|. For matched Gaussians, whose bias
    is 2 tr S (1 - 2F1(-1/2, 1/2; 2; D/N)) (Marchenko-Pastur), the two sides are as 0.76, 0.19, 0.85
    and 0.17 to 1 at N = D/2, D, 2 D and 4 D; below D/2 it fails. Differences of two settings obey
    it likewise (`tests/metrics/test_frechet_limit.py`).

    Attributes:
        value: E(N) = 2 F(N) - mean F(N/2) over two halves.
        coarser: E(N/2), the mean of the same over the halves and their quarters.
        influence_N: float64 [N], first-order change of `value` per unit of extra weight on each
            sample: 2 x its influence on F(N), less that on the F(N/2) of its half.
    """

    value: float
    coarser: float
    influence_N: NDArray[np.float64]


def frechet_limit(
    features_ND: NDArray[Any], reference: ReferenceFactor, strata_N: NDArray[Any] | None = None
) -> FrechetLimit:
    """Extrapolate the distance from quarters, halves and all samples.

    Each unit of weight on a sample moves the mean of the halves through its own half alone, which
    counts half as much and reacts twice as much; so the influence is as the class says. Where N or
    N/2 is at most D it is that of weights on the samples that are there (the infinitesimal
    jackknife), which a singular covariance allows.

    Args:
        features_ND: float32 or float64 [N, D], 8 <= N.
        reference: factorised once.
        strata_N: integer class of each sample when classes are balanced.

    Raises:
        DataError: as `frechet_fit`, or fewer than 2 samples in a quarter.
    """
    check_finite_rows(features_ND, "features")
    quarters_N = balanced_groups(len(features_ND), 4, strata_N)
    accumulators = [MomentsAccumulator() for _ in range(4)]
    for quarter, accumulator in enumerate(accumulators):
        accumulator.update(features_ND[quarters_N == quarter])
    quarters = [accumulator.result() for accumulator in accumulators]
    halved = _merged(accumulators, quarters_N % 2)
    fit = frechet_fit(halved.whole, reference)
    in_halves_N = np.empty(len(features_ND))
    of_halves = []
    for half, moments in enumerate(halved.of_halves):
        rows_N = halved.halves_N == half
        of_halves.append(frechet_distance(moments, reference))
        in_halves_N[rows_N] = frechet_influence(features_ND[rows_N], moments, reference)
    mean_half = sum(of_halves) / 2
    mean_quarter = sum(frechet_distance(moments, reference) for moments in quarters) / 4
    return FrechetLimit(
        extrapolated(fit.value, mean_half),
        extrapolated(mean_half, mean_quarter),
        2.0 * fit.influence(features_ND) - in_halves_N,
    )


def _merged(accumulators: list[MomentsAccumulator], halves_N: NDArray[np.int64]) -> HalvedMoments:
    """Moments of the halves (quarters 0 and 2, 1 and 3) and of all."""
    halves: list[Moments] = []
    for half in (0, 1):
        accumulators[half].merge(accumulators[half + 2])
        halves.append(accumulators[half].result())
    accumulators[0].merge(accumulators[1])
    return HalvedMoments(accumulators[0].result(), (halves[0], halves[1]), halves_N)
