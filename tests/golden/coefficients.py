"""Multistep weights of the goldens: theirs are float32, whose cancellation ours repeat or avoid."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.sampling.solvers import adams_coefficients, adams_coefficients_float32

EXACT_ORDERS = 2
"""Up to here float32 weights are exact to rounding, so that ours in float64 are the same."""
LAST_BITS = 3e-7
GOOD_TO = 2e-4
"""Of weights whose trajectories the READMEs' tolerances for exact weights were measured with."""


def check_coefficients(times_S: Tensor, order: int, stored: NDArray[np.float32]) -> None:
    """Ours in float32 are the stored ones, oldest first, zeros behind; ours in float64 are exact.

    Float64 weights of orders 3 and 4 are not compared with the stored ones: those are off by 2e-4
    in a few steps and by 11 in a hundred.
    """
    rounded, exact = adams_coefficients_float32(times_S, order), adams_coefficients(times_S, order)
    assert len(rounded) == len(exact) == len(stored)
    for i, (ours, theirs) in enumerate(zip(rounded, stored, strict=True)):
        largest = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=0, atol=LAST_BITS * largest**2)
        assert not theirs[len(ours) :].any()
        if len(ours) <= EXACT_ORDERS:
            np.testing.assert_allclose(exact[i], theirs[: len(ours)], rtol=0, atol=1e-6)
        check_exactness(times_S, i, exact[i])


def check_exactness(times_S: Tensor, i: int, weights: NDArray[np.float64]) -> None:
    """The weights of interval `i` integrate every polynomial of a lower degree than their count."""
    times = times_S.double().numpy()
    step = times[i + 1] - times[i]
    nodes = (times[i + 1 - len(weights) : i + 1] - times[i]) / step
    for degree in range(len(weights)):
        powers = weights * nodes**degree
        scale = max(1.0, np.abs(powers).max())
        np.testing.assert_allclose(powers.sum(), 1 / (degree + 1), rtol=0, atol=1e-11 * scale)


def exact_weights_would_do(run: dict[str, Any], times_S: Tensor) -> bool:
    """Whether upstream's weights are so good that exact ones give its image within a tolerance."""
    pairs = zip(
        adams_coefficients(times_S, run["order"]),
        adams_coefficients_float32(times_S, run["order"]),
        strict=True,
    )
    return max(float(np.abs(exact - rounded).max()) for exact, rounded in pairs) <= GOOD_TO
