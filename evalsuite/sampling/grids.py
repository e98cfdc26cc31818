"""Time grids from noise (t = 0) to data (t = 1)."""

import torch
from torch import Tensor


def shift_time(u: Tensor, timeshift: float) -> Tensor:
    """T = u / (u + (1 - u) * timeshift); a shift above 1 spends more steps near the noise.

    Source: PixNerd `sampling.py`. It equals the shift of SD3 applied to the noise level 1 - t.
    """
    return u / (u + (1 - u) * timeshift)


def time_grid(num_steps: int, timeshift: float = 1.0, last_step: float | None = None) -> Tensor:
    """The num_steps + 1 solver times, float32 on the CPU, from 0 to 1.

    Args:
        num_steps: solver intervals, at least 1.
        timeshift: see `shift_time`; 1 leaves the grid uniform.
        last_step: length of the last interval before the shift; 1 / num_steps when None. The
            others share the rest evenly. Of no effect for one step.

    Raises:
        ValueError: a count, shift or length outside its range.
    """
    if num_steps < 1:
        raise ValueError("num_steps must be at least 1")
    if timeshift <= 0:
        raise ValueError("timeshift must be positive")
    last = 1.0 / num_steps if last_step is None or num_steps == 1 else last_step
    if not 0 < last <= 1:
        raise ValueError("last_step must lie in (0, 1]")
    u = torch.cat((torch.linspace(0.0, 1.0 - last, num_steps), torch.ones(1)))
    return shift_time(u, timeshift)


def noise_level_grid(num_steps: int, timeshift: float = 1.0, lowest: float = 0.001) -> Tensor:
    """The times of PixelDiT's text model, float64 on the CPU, from near 0 to exactly 1.

    Noise levels tau = timeshift * s / (1 + (timeshift - 1) * s) of s evenly spaced from 1 - lowest
    to 0, in float32 as the original has them, given as t = 1 - tau, which float64 holds exactly.

    Raises:
        ValueError: a count or shift outside its range.
    """
    if num_steps < 1:
        raise ValueError("num_steps must be at least 1")
    if timeshift <= 0:
        raise ValueError("timeshift must be positive")
    s = 1.0 - torch.linspace(1.0, lowest, num_steps + 1)
    levels = (timeshift * s / (1 + (timeshift - 1) * s)).flip(0)
    return 1 - levels.double()
