"""A stranger's sampler: the stochastic Heun of Karras et al. 2022 (Algorithm 2), on digits."""

from itertools import pairwise

import torch
from pydantic import BaseModel

from evalsuite.config import ModelPreset, load_spec
from evalsuite.models.loading import load_module


class EdmToy:
    """Digits by EDM's stochastic sampler."""

    condition, num_classes, size, batch_size = "class", 10, (16, 16), 50

    class Settings(BaseModel, extra="forbid"):
        num_steps: int = 10
        guidance_scale: float = 1.5
        churn: float = 3.0
        sigma_max: float = 80.0

    def load(self, weights, ema, device, dtype):
        preset = load_spec(ModelPreset, "pixnerd-digits")
        self.network = load_module(preset.family, preset.network, weights, ema).to(device)

    def slope(self, x, sigma, labels, scale):
        """dx/dsigma; x is data + sigma * noise, the network's input t * data + (1 - t) * noise."""
        t, null = 1 / (1 + sigma), torch.full_like(labels, self.num_classes)
        v = self.network(
            (x * t).repeat(2, 1, 1, 1), t.expand(2 * len(x)), torch.cat([labels, null])
        )
        with_label, without = v.chunk(2)
        return (x - x * t - (1 - t) * torch.lerp(without, with_label, scale)) / sigma

    def sample(self, noise, conditions, generators, settings):
        labels, scale = torch.tensor(conditions, device=noise.device), settings.guidance_scale
        ramp = torch.linspace(settings.sigma_max ** (1 / 7), 0.002 ** (1 / 7), settings.num_steps)
        sigmas = torch.cat([ramp**7, torch.zeros(1)]).to(noise.device)
        gamma, x = min(settings.churn / settings.num_steps, 2**0.5 - 1), noise * sigmas[0]
        for sigma, after in pairwise(sigmas):
            fresh = torch.stack([torch.randn(noise.shape[1:], generator=g) for g in generators])
            up = sigma * (1 + gamma)
            x = x + (up**2 - sigma**2).sqrt() * fresh.to(noise.device)
            d = self.slope(x, up, labels, scale)
            x, start = x + (after - up) * d, x
            if after > 0:
                x = start + (after - up) * (d + self.slope(x, after, labels, scale)) / 2
        return x
