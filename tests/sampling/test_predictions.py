"""From what a network predicts to a velocity, the weaker guide, and the newer solvers' truths."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evalsuite.config import IntervalEnds, SamplingSettings
from evalsuite.sampling.grids import noise_level_grid, shift_time, time_grid
from evalsuite.sampling.guidance import (
    AutoguidedVelocity,
    Guidance,
    clean_to_velocity,
    reversed_time,
)
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import to_uint8_half_even, to_uint8_half_up
from evalsuite.sampling.sampler import times_of
from evalsuite.sampling.solvers import (
    adams_coefficients,
    adams_coefficients_float32,
    sample_adams2_constant,
    sample_dpmpp_2m,
    sample_heun,
)

NOISE = draw_noise(sample_generators(range(2)), (3, 4, 4))
DATA = draw_noise(sample_generators([7, 8]), (3, 4, 4)) / 2


def towards_data(x: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
    """The velocity when all data is one image: it points there from everywhere."""
    return (DATA - x) / (1 - t.float())


def test_a_clean_prediction_gives_the_velocity_of_the_straight_path() -> None:
    """On x = t data + (1 - t) noise it is data - noise, wherever the clamp is idle."""
    t_B = torch.tensor([0.0, 0.7])
    x = t_B[:, None, None, None] * DATA + (1 - t_B)[:, None, None, None] * NOISE
    velocity = clean_to_velocity(lambda *_: DATA, 0.05)(x, t_B, torch.zeros(2))
    torch.testing.assert_close(velocity, DATA - NOISE, rtol=0, atol=2e-6)


def test_the_clamp_of_a_clean_prediction_binds_near_the_data() -> None:
    """At t = 0.98 with t_eps 0.05 the velocity is 0.4 of the unclamped one."""
    t_B = torch.tensor([0.98, 0.98])
    given = clean_to_velocity(lambda *_: DATA, 0.05)(NOISE, t_B, torch.zeros(2))
    torch.testing.assert_close(given, (DATA - NOISE) / 0.05, rtol=1e-6, atol=0)


def test_a_network_of_reversed_time_sees_1000_tau_and_its_sign_is_turned() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        seen.append(t_B)
        return x

    t_B = 1 - torch.tensor([0.999, 0.25], dtype=torch.float32).double()
    out = reversed_time(network)(NOISE, t_B, torch.zeros(2))
    assert torch.equal(out, -NOISE)
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], torch.tensor([0.999, 0.25]) * 1000)


class Scaled:
    """A denoiser that knows its factor and what it was asked."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.conditions: list[Tensor] = []

    def __call__(self, x: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        self.conditions.append(condition)
        return x * self.factor


@pytest.mark.parametrize(("t", "factor", "nfe"), [(0.3, 1 + 3.0 * (2 - 1), 2), (0.9, 2.0, 1)])
def test_autoguidance_extrapolates_from_the_guide_inside_the_interval(
    t: float, factor: float, nfe: int
) -> None:
    """guide + s (main - guide) inside; outside the main model alone, without the guide's cost."""
    main, guide = Scaled(2.0), Scaled(1.0)
    same, null = torch.tensor([1, 2]), torch.tensor([9, 9])
    guidance = Guidance(3.0, (0.1, 0.6))
    velocity = AutoguidedVelocity(main, guide, same, null, guidance)
    assert torch.equal(velocity(NOISE, torch.tensor(t)), NOISE * factor)
    assert velocity.nfe == nfe
    assert all(torch.equal(c, same) for c in main.conditions)
    assert all(torch.equal(c, null) for c in guide.conditions)


def test_a_guide_equal_to_the_model_changes_nothing() -> None:
    """v + s (v - v) is v to the last bit, whatever the scale."""
    labels = torch.tensor([1, 2])
    velocity = AutoguidedVelocity(Scaled(2.0), Scaled(2.0), labels, labels, Guidance(7.5))
    assert torch.equal(velocity(NOISE, torch.tensor(0.5)), NOISE * 2)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
@pytest.mark.parametrize("timeshift", [1.0, 4.0])
def test_dpmpp_reaches_the_only_image_there_is(num_steps: int, timeshift: float) -> None:
    """With one data point every step predicts it, and the last step returns the prediction."""
    times = noise_level_grid(num_steps, timeshift)
    x = sample_dpmpp_2m(towards_data, NOISE, times)
    torch.testing.assert_close(x, DATA, rtol=0, atol=2e-3)


@given(st.integers(1, 60), st.floats(0.25, 8.0))
def test_the_noise_level_grid_falls_to_exactly_zero(num_steps: int, timeshift: float) -> None:
    """Its first level is the shift of 0.999, its last 0, and float64 holds 1 - tau exactly."""
    times = noise_level_grid(num_steps, timeshift)
    levels = 1 - times
    assert times[-1] == 1
    assert bool((times[1:] > times[:-1]).all())
    first = timeshift * 0.999 / (1 + (timeshift - 1) * 0.999)
    assert math.isclose(levels[0], first, rel_tol=1e-6)
    assert torch.equal(levels, levels.float().double())


def test_the_constant_two_step_solver_is_adams_2_on_even_times_and_another_elsewhere() -> None:
    """1.5 and -0.5 are the exact weights for even steps only."""

    def velocity(x: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
        return torch.cos(x) + t

    even, uneven = time_grid(8), time_grid(8, 3.0)
    for times, equal in ((even, True), (uneven, False)):
        constant = sample_adams2_constant(velocity, NOISE, times)
        rows = adams_coefficients(times, 2)
        x, before = NOISE, None
        for i, row in enumerate(rows):
            v = velocity(x, times[i])
            mixed = v if before is None else float(row[0]) * before + float(row[1]) * v
            x, before = x + (times[i + 1] - times[i]) * mixed, v
        assert torch.allclose(constant, x, rtol=0, atol=1e-5) == equal


def test_float32_coefficients_of_order_2_are_the_exact_ones_but_for_rounding() -> None:
    times = time_grid(25, 3.0)
    pairs = zip(adams_coefficients(times, 2), adams_coefficients_float32(times, 2), strict=True)
    assert max(float(abs(a - b).max()) for a, b in pairs) < 2e-6


def test_the_corrector_looks_up_the_interval_where_it_is_told() -> None:
    """`start` asks with the time where the step began, `next` with the corrector's own."""
    asked: list[tuple[float, float | None]] = []

    def velocity(x: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
        asked.append((float(t), None if guided_at is None else float(guided_at)))
        return torch.zeros_like(x)

    times = torch.tensor([0.0, 0.5, 1.0])
    sample_heun(velocity, NOISE, times, "start")
    sample_heun(velocity, NOISE, times, "next")
    assert asked == [(0.0, None), (0.5, 0.0), (0.5, None), (0.0, None), (0.5, None), (0.5, None)]


@pytest.mark.parametrize(
    ("ends", "interval", "expected"),
    [
        ("open", (0.0, 0.5), [False, True, False]),
        ("open_but_zero", (0.0, 0.5), [True, True, False]),
        ("open_but_zero", (0.25, 0.5), [False, False, False]),
        ("left_open", (0.0, 0.5), [False, True, True]),
        ("closed", (0.0, 0.5), [True, True, True]),
    ],
)
def test_ends_of_the_guidance_interval(
    ends: IntervalEnds, interval: tuple[float, float], expected: list[bool]
) -> None:
    """At t = 0, 0.25 and 0.5; a lower end of 0 is included by JiT's rule alone."""
    guidance = Guidance(2.0, interval, ends)
    assert [guidance.acts_at(torch.tensor(t)) for t in (0.0, 0.25, 0.5)] == expected


def test_the_linspace_grid_is_torchs_own() -> None:
    """JiT's times, which differ from the usual grid in last bits alone."""
    chosen = SamplingSettings(solver="heun", num_steps=50, grid="linspace", guidance_scale=2.0)
    assert torch.equal(times_of(chosen), torch.linspace(0, 1, 51))
    difference = (times_of(chosen) - time_grid(50)).abs()
    assert 0 < float(difference.max()) < 1e-7
    shifted = times_of(chosen.model_copy(update={"timeshift": 2.0}))
    assert torch.equal(shifted, shift_time(torch.linspace(0, 1, 51), 2.0))


def test_the_two_uint8_rules_part_at_ties_alone() -> None:
    """127.5 is a tie: half up gives 128, half to even 128; 126.5 gives 127 and 126."""
    x = torch.tensor([0.0, 126.5 / 127.5 - 1, 1.0, -1.0, 0.3]).reshape(1, 1, 1, 5)
    up, even = to_uint8_half_up(x).flatten().tolist(), to_uint8_half_even(x).flatten().tolist()
    assert up == [128, 127, 255, 0, 166]
    assert even == [128, 126, 255, 0, 166]
    values = torch.linspace(-1.2, 1.2, 100_001).reshape(1, 1, 1, -1)
    apart = to_uint8_half_up(values).int() - to_uint8_half_even(values).int()
    assert int(apart.abs().max()) <= 1
    assert float((apart != 0).float().mean()) < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "euler", "coefficients": "float32"}, "coefficients"),
        ({"solver": "euler", "corrector_guidance": "start"}, "corrector_guidance"),
        ({"solver": "dpmpp_2m", "last_step": 0.1}, "grid of its own"),
        ({"solver": "heun", "grid": "linspace", "last_step": 0.1}, "last_step does not apply"),
        ({"solver": "euler", "guidance_interval": (0.9, 0.1)}, "LO HI"),
    ],
)
def test_settings_that_do_not_belong_together(changes: dict[str, object], message: str) -> None:
    fields = {"num_steps": 4, "guidance_scale": 1.0, **changes}
    with pytest.raises(ValueError, match=message):
        SamplingSettings.model_validate(fields)
