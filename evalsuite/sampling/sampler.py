"""From settings to images: grid, solver and guidance joined.

Legend: B batch, C channels, H height, W width, S solver times.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from evalsuite.config import SamplingSettings
from evalsuite.sampling import solvers
from evalsuite.sampling.grids import noise_level_grid, shift_time, time_grid
from evalsuite.sampling.guidance import (
    AutoguidedVelocity,
    Denoiser,
    Guidance,
    GuidedVelocity,
    VelocityFn,
)
from evalsuite.sampling.noise import sample_generators
from evalsuite.sampling.solvers import Generators


def times_of(settings: SamplingSettings) -> Tensor:
    """The solver's times, increasing, noise to data.

    Raises:
        ValueError: settings whose times do not increase.
    """
    if settings.solver == "dpmpp_2m":
        return noise_level_grid(settings.num_steps, settings.timeshift)
    if settings.grid == "linspace":
        return shift_time(torch.linspace(0, 1, settings.num_steps + 1), settings.timeshift)
    return time_grid(settings.num_steps, settings.timeshift, settings.last_step)


def solve(
    settings: SamplingSettings, velocity: VelocityFn, noise_BCHW: Tensor, generators: Generators
) -> Tensor:
    """Integrate from noise to images, float32, with the solver of `settings`."""
    times_S = times_of(settings)
    corrector = settings.corrector_guidance or "next"
    match settings.solver:
        case "euler":
            step = solvers.STEPS[settings.step]
            return solvers.sample_euler(velocity, noise_BCHW, times_S, step, generators=generators)
        case "heun":
            return solvers.sample_heun(velocity, noise_BCHW, times_S, corrector)
        case "heun_reuse":
            return solvers.sample_heun_reuse(velocity, noise_BCHW, times_S, corrector)
        case "adams":
            order, coefficients = settings.order or 2, settings.coefficients or "float64"
            return solvers.sample_adams(velocity, noise_BCHW, times_S, order, coefficients)
        case "adams2_constant":
            return solvers.sample_adams2_constant(velocity, noise_BCHW, times_S)
        case "dpmpp_2m":
            return solvers.sample_dpmpp_2m(velocity, noise_BCHW, times_S)


class Conditions(NamedTuple):
    """What a batch is conditioned on: labels [B] or text features [B,T,D], and the null ones."""

    given: Tensor
    null: Tensor


class Guide(NamedTuple):
    """The weaker model of autoguidance and the condition that it sees."""

    denoiser: Denoiser
    condition: Tensor


class Sampled(NamedTuple):
    """Images [B,C,H,W], float32, and the network evaluations that each of them cost."""

    x_BCHW: Tensor
    nfe: int


def sample_batch(
    denoiser: Denoiser,
    conditions: Conditions,
    noise_BCHW: Tensor,
    settings: SamplingSettings,
    generators: Generators,
    guide: Guide | None = None,
) -> Sampled:
    """Images of one batch.

    Args:
        denoiser: the velocity network.
        conditions: on the device of the noise.
        noise_BCHW: standard normal, float32.
        settings: solver, guidance and noise scale.
        generators: each sample's own, for solvers that draw fresh noise.
        guide: takes the place of the unconditional half.
    """
    guidance = guidance_of(settings)
    velocity: GuidedVelocity | AutoguidedVelocity
    if guide is None:
        velocity = GuidedVelocity(denoiser, *conditions, guidance)
    else:
        velocity = AutoguidedVelocity(
            denoiser, guide.denoiser, conditions.given, guide.condition, guidance
        )
    x_BCHW = solve(settings, velocity, noise_BCHW * settings.noise_scale, generators)
    return Sampled(x_BCHW.float(), velocity.nfe)


def guidance_of(settings: SamplingSettings) -> Guidance:
    """The guidance that `settings` describe."""
    return Guidance(
        scale=settings.guidance_scale,
        interval=settings.guidance_interval,
        ends=settings.interval_ends,
        skip_unguided=settings.skip_unguided,
    )


def count_nfe(settings: SamplingSettings) -> int:
    """Network evaluations per image, a guided pair counted as two, found by a dry integration."""

    def still(x: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(x)

    one = torch.zeros(1, dtype=torch.long)
    velocity = GuidedVelocity(still, one, one, guidance_of(settings))
    solve(settings, velocity, torch.zeros(1, 1, 1, 1), sample_generators([0]))
    return velocity.nfe
