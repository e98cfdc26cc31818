"""Verdicts of a rung: the leader, paired intervals, and how seldom the best one is excluded."""

import numpy as np
import pytest

from evalsuite.sweep.judging import Judged, critical_value, judge


def test_the_critical_value_is_that_of_one_interval_or_wider() -> None:
    assert critical_value(1, 1) == pytest.approx(1.959964, abs=1e-6)
    assert critical_value(10, 1) == critical_value(5, 2) == pytest.approx(2.807034, abs=1e-6)


def of_samples(samples_N: np.ndarray, drift: float = 0.0) -> Judged:
    """A mean of samples, whose influence is their distance from it."""
    return Judged(float(samples_N.mean()), samples_N - samples_N.mean(), None, drift)


def test_pairs_tell_apart_what_plain_errors_do_not() -> None:
    shared = np.random.default_rng(0).standard_normal(1000)
    own = np.random.default_rng(1).standard_normal(1000) * 0.05
    judged = {"a": of_samples(shared), "b": of_samples(shared + 0.02 + own)}
    (first, second) = judge(judged, better="lower", num_rungs=1, strata_N=None)
    assert (first.name, first.difference, first.excluded) == ("a", 0.0, False)
    assert second.paired
    assert second.excluded
    assert second.standard_error == pytest.approx(0.05 / 1000**0.5, rel=0.1)
    alone = {
        name: one._replace(influence_N=None, standard_error=0.03) for name, one in judged.items()
    }
    (_, unpaired) = judge(alone, better="lower", num_rungs=1, strata_N=None)
    assert not unpaired.paired
    assert not unpaired.excluded


def test_the_direction() -> None:
    judged = {"a": Judged(1.0, None, 0.01), "b": Judged(2.0, None, 0.01), "c": Judged(float("nan"))}
    lower = judge(judged, better="lower", num_rungs=1, strata_N=None)
    higher = judge(judged, better="higher", num_rungs=1, strata_N=None)
    assert [one.name for one in lower] == ["a", "b", "c"]
    assert [one.name for one in higher] == ["b", "a", "c"]
    assert (
        [one.excluded for one in lower] == [one.excluded for one in higher] == [False, True, False]
    )


def test_drift_widens_and_a_rung_that_is_too_small_excludes_nobody() -> None:
    samples = np.random.default_rng(0).standard_normal(1000)
    judged = {"a": of_samples(samples), "b": of_samples(samples + 1.0, drift=-1.5)}
    assert not judge(judged, better="lower", num_rungs=1, strata_N=None)[1].excluded
    judged["b"] = of_samples(samples + 1.0, drift=-0.5)
    assert judge(judged, better="lower", num_rungs=1, strata_N=None)[1].excluded
    none = judge(judged, better="lower", num_rungs=1, strata_N=None, may_exclude=False)
    assert not none[1].excluded
    assert none[1].half_width is not None


def test_a_value_without_an_error_is_never_excluded() -> None:
    judged = {"a": Judged(1.0), "b": Judged(50.0)}
    (_, other) = judge(judged, better="lower", num_rungs=1, strata_N=None)
    assert (other.half_width, other.excluded) == (None, False)


def test_the_best_of_many_stays_in_95_of_100_sweeps() -> None:
    """Twelve equal means over three growing rungs: whichever is taken as best is rarely dropped."""
    rng = np.random.default_rng(7)
    dropped = 0
    for _ in range(200):
        samples = {str(k): rng.standard_normal(800) for k in range(12)}
        alive = set(samples)
        for rung in (50, 200, 800):
            judged = {name: of_samples(samples[name][:rung]) for name in sorted(alive)}
            verdicts = judge(judged, better="lower", num_rungs=3, strata_N=None)
            alive -= {one.name for one in verdicts if one.excluded}
        dropped += "0" not in alive
    assert dropped <= 10
