"""One batch of images from seeds, conditions and settings: noise, solver, guidance, uint8.

Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.config import SamplingSettings
from evalsuite.sampling import solvers
from evalsuite.sampling.grids import time_grid
from evalsuite.sampling.guidance import Denoiser, Guidance, GuidedVelocity, VelocityFn
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import UINT8_RULES
from evalsuite.sampling.solvers import Generators


class SampledBatch(NamedTuple):
    """Images of one batch and the network evaluations that each of them cost."""

    images_NHWC: NDArray[np.uint8]
    nfe: int


def solve(
    settings: SamplingSettings, velocity: VelocityFn, noise_BCHW: Tensor, generators: Generators
) -> Tensor:
    """Integrate from noise to images, float32, with the solver of `settings`."""
    times_S = time_grid(settings.num_steps, settings.timeshift, settings.last_step)
    if settings.solver == "euler":
        step = solvers.STEPS[settings.step]
        return solvers.sample_euler(velocity, noise_BCHW, times_S, step, generators=generators)
    if settings.solver == "heun":
        return solvers.sample_heun(velocity, noise_BCHW, times_S)
    if settings.solver == "heun_reuse":
        return solvers.sample_heun_reuse(velocity, noise_BCHW, times_S)
    return solvers.sample_adams(velocity, noise_BCHW, times_S, settings.order or 2)


@torch.inference_mode()
def sample_class_batch(
    denoiser: Denoiser,
    seeds: Sequence[int],
    labels: Sequence[int],
    null_label: int,
    size: tuple[int, int],
    settings: SamplingSettings,
    uint8_rule: str,
    device: torch.device,
) -> SampledBatch:
    """Class-conditional images [B,H,W,3] of one batch, noise from each seed's CPU generator."""
    generators = sample_generators(seeds)
    noise_BCHW = draw_noise(generators, (3, *size)).to(device) * settings.noise_scale
    condition = torch.tensor(labels, device=device)
    velocity = GuidedVelocity(
        denoiser, condition, torch.full_like(condition, null_label), guidance_of(settings)
    )
    x_BCHW = solve(settings, velocity, noise_BCHW, generators)
    return SampledBatch(UINT8_RULES[uint8_rule](x_BCHW).numpy(), velocity.nfe)


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
