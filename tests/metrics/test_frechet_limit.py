"""The extrapolated distance of nested subsets: its bias, its bound and its paired error."""

import functools
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.frechet import ReferenceFactor, frechet_fit, reference_factor
from evalsuite.metrics.frechet_limit import FrechetLimit, frechet_limit
from evalsuite.metrics.intervals import paired_standard_error
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.sweep.judging import Judged, judge

DIM = 32
SPREADS = (1.01, 0.97, 0.93, 0.85)
"""Settings by how far their samples spread: more guidance, less spread."""
SHIFTS = (0.06, 0.066, 0.036, 0.11)
"""Of the mean, in every dimension."""
BEST = 0


def reference() -> ReferenceFactor:
    """A standard normal, known exactly."""
    return reference_factor(Moments(10**9, np.zeros(DIM), np.eye(DIM)))


def true_distances() -> NDArray[np.float64]:
    """D (shift^2 + (spread - 1)^2)."""
    return DIM * (np.square(SHIFTS) + np.square(np.subtract(SPREADS, 1)))


class Replicate(NamedTuple):
    """Every setting on the same noise."""

    plain: dict[str, Judged]
    limits: list[FrechetLimit]

    @property
    def extrapolated(self) -> dict[str, Judged]:
        """As `evalsuite sweep` ranks by them."""
        return {
            str(place): Judged(one.value, one.influence_N, None, one.value - one.coarser)
            for place, one in enumerate(self.limits)
        }


@functools.cache
def replicates(per_dim: int) -> list[Replicate]:
    """Forty of settings that share most of their noise, `per_dim` samples for each dimension."""
    rng, factor = np.random.default_rng(per_dim), reference()
    found = []
    for _ in range(40):
        shared = rng.standard_normal((per_dim * DIM, DIM))
        plain: dict[str, Judged] = {}
        limits = []
        for spread, shift in zip(SPREADS, SHIFTS, strict=True):
            own = 0.99 * shared + np.sqrt(1 - 0.99**2) * rng.standard_normal(shared.shape)
            features_ND = spread * own + shift
            fit = frechet_fit(moments_of(features_ND), factor)
            plain[str(len(plain))] = Judged(fit.value, fit.influence(features_ND))
            limits.append(frechet_limit(features_ND, factor))
        found.append(Replicate(plain, limits))
    return found


def test_the_chosen_settings_have_a_winner_that_bias_hides() -> None:
    """The best spreads most, so every F(N) of the others is favoured."""
    assert true_distances().argmin() == BEST
    assert list(SPREADS) == sorted(SPREADS, reverse=True)


def excluded(judged: dict[str, Judged]) -> set[str]:
    """As on a rung of `evalsuite sweep`."""
    verdicts = judge(judged, better="lower", num_rungs=1, strata_N=None)
    return {one.name for one in verdicts if one.excluded}


@pytest.mark.parametrize(("per_dim", "power"), [(1, 0.0), (2, 0.2), (4, 0.2), (8, 0.2)])
def test_the_winner_is_not_excluded_where_plain_distances_exclude_it(
    per_dim: int, power: float
) -> None:
    """Plain ones do so at N = D; the extrapolated exclude a part of the others from 2 D on."""
    behind = by_plain = by_limit = others = 0
    for one in replicates(per_dim):
        behind += min(one.plain, key=lambda name: one.plain[name].value) != str(BEST)
        by_plain += str(BEST) in excluded(one.plain)
        gone = excluded(one.extrapolated)
        by_limit += str(BEST) in gone
        others += len(gone - {str(BEST)})
    assert by_limit <= 2  # 5 % of 40
    assert others >= power * 40 * (len(SPREADS) - 1)
    if per_dim == 1:
        assert behind >= 32
        assert by_plain >= 28


@pytest.mark.parametrize(("per_dim", "narrowest"), [(1, 0.6), (2, 0.85), (4, 0.85), (8, 0.85)])
def test_the_paired_error_is_the_spread_of_differences(per_dim: int, narrowest: float) -> None:
    """At N = D alone it is too small, by a third; the drift is several times as large there."""
    found = replicates(per_dim)
    for other in range(len(SPREADS)):
        if other == BEST:
            continue
        differences = [one.limits[other].value - one.limits[BEST].value for one in found]
        errors = [
            paired_standard_error(one.limits[other].influence_N, one.limits[BEST].influence_N)
            for one in found
        ]
        drifts = [
            one.limits[other].value
            - one.limits[other].coarser
            - one.limits[BEST].value
            + one.limits[BEST].coarser
            for one in found
        ]
        spread = np.std(differences, ddof=1)
        assert narrowest < np.mean(errors) / spread < 1.6
        missed = abs(np.mean(differences) - (true_distances()[other] - true_distances()[BEST]))
        assert missed < np.mean(np.abs(drifts)) + 3 * spread / np.sqrt(len(found))


def test_the_influence_is_the_derivative_in_the_weights_of_samples() -> None:
    """By finite differences of the whole and of the half in which the sample is."""
    rng = np.random.default_rng(5)
    features_ND = rng.standard_normal((400, 6)) * 1.2 + 0.1
    factor = reference_factor(Moments(1000, np.zeros(6), np.eye(6)))
    limit = frechet_limit(features_ND, factor, np.arange(400) % 2)
    assert limit.influence_N.shape == (400,)
    assert abs(limit.influence_N.mean()) < 1e-9

    def value(weights_N: NDArray[np.float64]) -> float:
        halves = np.arange(400) // 2 % 2  # dealt out class after class
        total = 2 * _weighted(features_ND, weights_N, factor)
        return total - np.mean(
            [_weighted(features_ND[halves == h], weights_N[halves == h], factor) for h in (0, 1)]
        )

    step = 1e-5
    for place in (0, 7, 22):
        weights_N = np.full(400, 1 / 400)
        weights_N[place] += step
        moved = (value(weights_N) - value(np.full(400, 1 / 400))) / step
        assert moved == pytest.approx(limit.influence_N[place], rel=0.02, abs=0.02)


def _weighted(
    features_ND: NDArray[np.float64], weights_N: NDArray[np.float64], factor: ReferenceFactor
) -> float:
    """The distance of weighted samples, with the covariance over N - 1."""
    shares_N = weights_N / weights_N.sum()
    mean_D = shares_N @ features_ND
    centred = features_ND - mean_D
    cov_DD = (centred.T * shares_N) @ centred * len(shares_N) / (len(shares_N) - 1)
    return frechet_fit(Moments(len(shares_N), mean_D, cov_DD), factor).value


def test_too_few_samples() -> None:
    with pytest.raises(DataError):
        frechet_limit(np.ones((6, 3)), reference_factor(Moments(9, np.zeros(3), np.eye(3))))
