"""Time grids: ends, order, time shift, last step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.sampling.grids import shift_time, time_grid


@given(st.integers(1, 200), st.floats(0.1, 10), st.none() | st.floats(0.005, 0.9))
def test_a_grid_starts_at_noise_ends_at_data_and_increases(
    num_steps: int, timeshift: float, last_step: float | None
) -> None:
    times = time_grid(num_steps, timeshift, last_step)
    assert times.dtype == torch.float32
    assert len(times) == num_steps + 1
    assert times[0] == 0
    assert times[-1] == 1
    assert bool((times[1:] > times[:-1]).all())


def test_without_shift_the_grid_is_uniform() -> None:
    torch.testing.assert_close(time_grid(8), torch.linspace(0, 1, 9), rtol=0, atol=1e-7)


@given(st.floats(0.2, 8), st.integers(2, 60))
def test_the_shift_is_that_of_sd3_on_the_noise_level(timeshift: float, num_steps: int) -> None:
    """sigma' = s sigma / (1 + (s - 1) sigma) with sigma = 1 - t; and its inverse is 1 / s."""
    u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    sigma = 1 - u
    shifted = timeshift * sigma / (1 + (timeshift - 1) * sigma)
    torch.testing.assert_close(shift_time(u, timeshift), 1 - shifted, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        shift_time(shift_time(u, timeshift), 1 / timeshift), u, rtol=0, atol=1e-12
    )


def test_a_shift_above_one_spends_more_steps_near_the_noise() -> None:
    assert bool((time_grid(10, 3.0)[1:-1] < time_grid(10)[1:-1]).all())


@pytest.mark.parametrize("last", [0.04, 0.5])
def test_the_last_step_has_the_length_that_was_asked(last: float) -> None:
    times = time_grid(8, last_step=last)
    steps = times[1:] - times[:-1]
    assert abs(float(steps[-1]) - last) < 1e-6
    torch.testing.assert_close(steps[:-1], torch.full((7,), (1 - last) / 7), rtol=0, atol=1e-6)
    assert torch.equal(time_grid(1, last_step=last), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    "arguments", [(0,), (-3,), (4, 0.0), (4, -1.0), (4, 1.0, 0.0), (4, 1.0, 1.5), (4, 1.0, -0.1)]
)
def test_impossible_grids_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        time_grid(*arguments)
