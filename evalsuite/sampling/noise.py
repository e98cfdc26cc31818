"""The initial noise of each sample, a function of its seed alone."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sample_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each sample, seeded by that sample's seed."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise [B, *shape], float32 on the CPU, the next draw of every generator.

    For a fresh generator this is `torch.randn(shape, generator=Generator("cpu").manual_seed(s))`,
    the call that upstream repositories and users of diffusers make.
    """
    return torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])
