"""rFID: the same number as FID, with an error that counts both sides of a pair."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.frechet import frechet_distance, frechet_fit
from evalsuite.metrics.intervals import standard_error
from evalsuite.metrics.moments import moments_of
from evalsuite.metrics.paired_frechet import rfid

DIM, PAIRS = 8, 200


def pairs(seed: int, noise: float = 0.2, scale: float = 0.95) -> tuple[NDArray, NDArray]:
    """Originals, and reconstructions that are a little flat and a little noisy."""
    rng = np.random.default_rng(seed)
    originals = rng.standard_normal((PAIRS, DIM))
    return scale * originals + noise * rng.standard_normal(originals.shape) + 0.02, originals


def test_the_value_is_fid() -> None:
    samples, originals = pairs(0)
    expected = frechet_distance(moments_of(samples), moments_of(originals))
    assert rfid(samples, originals).value == pytest.approx(expected, rel=1e-9)


def test_the_error_is_that_of_drawing_pairs() -> None:
    """About the spread of 300 replicates; against fixed originals it is 3 times as wide."""
    found = [rfid(*pairs(seed)) for seed in range(300)]
    spread = np.std([value.value for value in found], ddof=1)
    claimed = np.mean([value.standard_error for value in found])
    assert 0.9 * spread < claimed < 1.25 * spread
    samples, originals = pairs(0)
    fixed = frechet_fit(moments_of(samples), moments_of(originals)).influence(samples)
    assert standard_error(fixed) > 2.5 * spread


def test_a_set_with_itself_has_no_distance_and_no_error() -> None:
    originals = pairs(0)[1]
    value = rfid(originals, originals)
    assert value.value == pytest.approx(0, abs=1e-9)
    assert value.standard_error == pytest.approx(0, abs=1e-9)
    assert value.extrapolated is None


def test_both_sides_have_the_same_error() -> None:
    """The distance is symmetric, and so is what a pair does to it."""
    samples, originals = pairs(3)
    here, there = rfid(samples, originals), rfid(originals, samples)
    np.testing.assert_allclose(here.influence_N, there.influence_N, atol=1e-9)
    assert here.influence_N.mean() == pytest.approx(0, abs=1e-9)


def test_strata_take_the_error_within_classes() -> None:
    samples, originals = pairs(1)
    labels = np.arange(PAIRS) % 4
    value = rfid(samples, originals, labels)
    assert value.standard_error == standard_error(value.influence_N, labels)


@pytest.mark.parametrize("count", [2, DIM, 2 * DIM - 1])
def test_few_pairs_have_a_value_and_no_error(count: int) -> None:
    samples, originals = pairs(2)
    value = rfid(samples[:count], originals[:count])
    assert math.isfinite(value.value)
    assert value.standard_error is None
    assert value.influence_N is None
    assert any(f"(16), there are {count}" in note for note in value.notes)
    assert any("singular" in note for note in value.notes) == (count <= DIM)


def test_what_is_refused() -> None:
    samples, originals = pairs(0)
    with pytest.raises(ValueError, match="do not pair"):
        rfid(samples[1:], originals)
    with pytest.raises(DataError, match="at least 2"):
        rfid(samples[:1], originals[:1])
    samples[7, 1] = np.nan
    with pytest.raises(DataError, match="row 7"):
        rfid(samples, originals)
