"""Solvers: exact where mathematics says so, orders of convergence, cost, fresh noise."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evalsuite.config import SamplingSettings, SolverName, StepName
from evalsuite.sampling import sampler
from evalsuite.sampling.grids import time_grid
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.solvers import (
    STEPS,
    adams_coefficients,
    sample_adams,
    sample_euler,
    sample_heun,
    sample_heun_reuse,
)

Solver = Callable[..., Tensor]
SOLVERS: dict[str, Solver] = {
    "euler": sample_euler,
    "heun": sample_heun,
    "heun_reuse": sample_heun_reuse,
    **{f"adams{k}": lambda v, x, t, k=k: sample_adams(v, x, t, k) for k in (1, 2, 3, 4)},
}
NOISE = draw_noise(sample_generators(range(3)), (3, 4, 4))
TIMES = {
    "uniform": time_grid(7),
    "shifted": time_grid(9, timeshift=3.0),
    "uneven": time_grid(6, 1.5, last_step=0.04),
    "one step": time_grid(1),
    "two steps": time_grid(2, 2.0),
}


class Counted:
    """A velocity function that counts its calls."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._velocity = velocity
        self.calls = 0

    def __call__(self, x_BCHW: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        assert t.ndim == 0
        assert t.dtype == torch.float32
        return self._velocity(x_BCHW, t)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_a_constant_velocity_integrates_exactly(solve: Solver, times: Tensor) -> None:
    """From noise along a straight line; up to rounding of the sum of the steps."""
    direction = torch.linspace(-2, 2, NOISE.numel()).reshape(NOISE.shape)
    x = solve(lambda x, t: direction, NOISE, times)
    torch.testing.assert_close(x, NOISE + direction, rtol=0, atol=3e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_weights_integrate_polynomials_below_their_order_exactly(order: int) -> None:
    """Of the last k velocities, on an uneven grid: t^d for d < k has its mean over the interval."""
    times = time_grid(9, timeshift=2.5).double()
    for i, weights in enumerate(adams_coefficients(times, order)):
        nodes = times[i + 1 - len(weights) : i + 1]
        low, high = times[i], times[i + 1]
        for degree in range(len(weights)):
            mean = (high ** (degree + 1) - low ** (degree + 1)) / (degree + 1) / (high - low)
            mixed = sum(w * node**degree for w, node in zip(weights, nodes, strict=True))
            assert abs(float(mixed - mean)) < 1e-11


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("euler", 1),
        ("heun", 2),
        ("heun_reuse", 2),
        ("adams1", 1),
        ("adams2", 2),
        ("adams3", 3),
        ("adams4", 4),
    ],
)
def test_order_of_convergence_on_a_linear_equation(name: str, order: int) -> None:
    """x' = -1.5 (x - t^5) + 5 t^4 is solved by t^5: halving the steps divides the error by 2^order.

    The solution is flat at 0, so that the lower orders in which Adams methods begin do not show.
    """

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return -1.5 * (x - t**5) + 5 * t**4

    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    errors = []
    for count in (80, 160, 320):
        times = torch.linspace(0, 1, count + 1, dtype=torch.float64)
        errors.append(abs(float(SOLVERS[name](velocity, zero, times)) - 1))
    for coarse, fine in itertools.pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.2


def test_uniform_adams_coefficients_are_the_textbook_ones() -> None:
    """Adams-Bashforth of orders 1 to 4 on an even grid."""
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    rows = adams_coefficients(times, 4)
    textbook = [
        [1],
        [-1 / 2, 3 / 2],
        [5 / 12, -16 / 12, 23 / 12],
        [-9 / 24, 37 / 24, -59 / 24, 55 / 24],
    ]
    for row, expected in zip([*rows[:3], rows[-1]], textbook, strict=True):
        torch.testing.assert_close(
            torch.tensor(row), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
        )


@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_adams_coefficients_sum_to_one_on_any_grid(widths: list[float], order: int) -> None:
    """And grow from one to `order` terms."""
    times = torch.cumsum(torch.tensor([0.0, *widths]), 0)
    rows = adams_coefficients(times / times[-1], order)
    assert [len(row) for row in rows] == [min(order, i + 1) for i in range(len(widths))]
    for row in rows:
        assert abs(row.sum() - 1) < 1e-9


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("euler", lambda n: n),
        ("heun", lambda n: 2 * n - 1),
        ("heun_reuse", lambda n: n),
        ("adams2", lambda n: n),
        ("adams4", lambda n: n),
    ],
)
def test_number_of_evaluations(name: str, cost: Callable[[int], int], count: int) -> None:
    velocity = Counted(lambda x, t: torch.zeros_like(x))
    SOLVERS[name](velocity, NOISE, time_grid(count))
    assert velocity.calls == cost(count)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("times", [[0.0, 0.5, 0.5, 1.0], [0.0, 1.0, 0.5], [0.0], [[0.0, 1.0]]])
def test_times_that_do_not_increase_are_refused(solve: Solver, times: list[float]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        solve(lambda x, t: x, NOISE, torch.tensor(times))


@pytest.mark.parametrize("order", [0, 5])
def test_other_orders_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match="order"):
        sample_adams(lambda x, t: x, NOISE, time_grid(3), order)


def settings_of_every_solver() -> Iterator[SamplingSettings]:
    """Every solver, every order and every step that the configuration names."""
    for solver in get_args(SolverName):
        orders = (1, 2, 3, 4) if solver == "adams" else (None,)
        steps = get_args(StepName) if solver == "euler" else ("ode",)
        for order in orders:
            for step in steps:
                yield SamplingSettings(
                    solver=solver, order=order, step=step, num_steps=5, guidance_scale=1.0
                )


@pytest.mark.parametrize(
    "settings", list(settings_of_every_solver()), ids=lambda s: f"{s.solver}-{s.order}-{s.step}"
)
def test_every_solver_works_with_its_defaults(settings: SamplingSettings) -> None:
    """Towards a known image with the exact velocity, every solver ends at that image."""
    target = torch.linspace(-1, 1, NOISE.numel()).reshape(NOISE.shape)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return (target - x) / (1 - t).clamp_min(1e-3)

    x = sampler.solve(settings, velocity, NOISE, sample_generators(range(3)))
    assert x.shape == NOISE.shape
    assert x.dtype == torch.float32
    assert bool(torch.isfinite(x).all())
    if settings.solver in {"euler", "heun"} and settings.step == "ode":
        torch.testing.assert_close(x, target, rtol=0, atol=1e-5)


def test_every_step_that_the_configuration_names_exists() -> None:
    assert set(STEPS) == set(get_args(StepName))


@pytest.mark.parametrize("step", ["sde", "sde_preserve"])
def test_stochastic_steps_use_each_samples_own_generator(step: str) -> None:
    """A sample alone comes out bit for bit as it does in a batch of others."""
    times = time_grid(6)

    def run(seeds: list[int]) -> Tensor:
        generators = sample_generators(seeds)
        noise = draw_noise(generators, (3, 4, 4))
        return sample_euler(lambda x, t: -x, noise, times, STEPS[step], generators=generators)

    together, backwards = run([5, 6, 7, 8]), run([8, 7, 6, 5])
    for slot, seed in enumerate((5, 6, 7, 8)):
        assert torch.equal(run([seed])[0], together[slot])
    assert torch.equal(together, backwards.flip(0))
    assert not torch.equal(together[0], together[1])


def test_stochastic_noise_is_fresh_in_every_step_and_goes_on_from_the_initial_one() -> None:
    """With no velocity and the score of x, what is added is the generator's next draws."""
    times = time_grid(3)
    generators = sample_generators([11])
    noise = draw_noise(generators, (3, 4, 4))
    x = sample_euler(
        lambda x, t: torch.zeros_like(x), noise, times, STEPS["sde"], generators=generators
    )
    fresh = torch.Generator("cpu").manual_seed(11)
    draws = [torch.randn((1, 3, 4, 4), generator=fresh) for _ in range(3)]
    assert torch.equal(draws[0], noise)
    expected = noise
    for t, t_next, draw in zip(times[:-2], times[1:-1], draws[1:], strict=True):
        dt, score = t_next - t, -expected / ((1 - t) ** 2 + t * (1 - t))
        expected = expected + score * (1 - t) * dt + torch.sqrt(2 * (1 - t) * dt) * draw
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)  # the last step is the ODE's
