"""Classifier-free guidance as a wrapper around a denoiser.

Legend: B batch, C channels, H height, W width.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evalsuite.config import IntervalEnds


class VelocityFn(Protocol):
    """dx/dt as the solvers see it."""

    def __call__(self, x_BCHW: Tensor, t: Tensor, guided_at: Tensor | None = None, /) -> Tensor:
        """The velocity at `x_BCHW` (fp32) and scalar `t` (on the CPU), shaped as x.

        `guided_at` is the time that decides whether guidance acts, when it is not `t`. The dtype is
        the network's: bfloat16 velocities are combined as such, like the original programs do.
        """
        ...


class Denoiser(Protocol):
    """A velocity network: x [B,C,H,W] fp32, t [B] fp32, condition [B,...] => dx/dt, shaped as x."""

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, condition: Tensor, /) -> Tensor:
        """Evaluate the network once."""
        ...


def clean_to_velocity(denoiser: Denoiser, t_eps: float) -> Denoiser:
    """The velocity (clean - x) / max(1 - t, t_eps) of a network that predicts the clean image.

    Source: JiT (Li and He 2025, arXiv 2511.13720) and PixelGen's samplers. The bound acts in the
    published runs: with t_eps 0.05 the last steps move less than all the way to the prediction.
    """

    def velocity(x_BCHW: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        left_B111 = (1 - t_B).clamp_min(t_eps).to(x_BCHW.dtype)[:, None, None, None]
        return (denoiser(x_BCHW, t_B, condition) - x_BCHW) / left_B111

    return velocity


def reversed_time(denoiser: Denoiser) -> Denoiser:
    """The velocity of a network that runs the other way.

    Its time is 1000 (1 - t) and its output noise - data (PixelDiT's text model). `t_B` may be
    float64, so that 1 - t is exact.
    """

    def velocity(x_BCHW: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        return -denoiser(x_BCHW, (1 - t_B).float() * 1000, condition)

    return velocity


@dataclass(frozen=True)
class Guidance:
    """How the conditional and the unconditional velocity are combined.

    Attributes:
        scale: uncond + scale * (cond - uncond); 1 is off.
        interval: times (lo, hi) between which guidance acts; outside the scale is 1.
        ends: `open` compares strictly on both sides (PixNerd, PixelDiT), `left_open` includes the
            upper end (PixelGen's Euler and Heun), `closed` both; `open_but_zero` is open, but a
            lower end of 0 includes t = 0 (JiT).
        skip_unguided: compute only the conditional half where the scale is 1. Off restores the
            doubled batch of the original programs.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    ends: IntervalEnds = "open"
    skip_unguided: bool = True

    def acts_at(self, t: Tensor) -> bool:
        """Whether the scale applies at time `t` (float32), with bounds rounded to float32."""
        low, high = (torch.tensor(bound, dtype=torch.float32) for bound in self.interval)
        from_zero = self.ends == "open_but_zero" and self.interval[0] == 0
        above = t >= low if self.ends == "closed" or from_zero else t > low
        below = t < high if self.ends in {"open", "open_but_zero"} else t <= high
        return bool(above & below)


class GuidedVelocity:
    """A velocity function with guidance that counts network evaluations per image as `nfe`."""

    def __init__(
        self, denoiser: Denoiser, condition: Tensor, null_condition: Tensor, guidance: Guidance
    ) -> None:
        self._denoiser = denoiser
        self._condition = condition
        self._both = torch.cat((null_condition, condition))
        self._guidance = guidance
        self.nfe = 0

    def __call__(self, x_BCHW: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
        """The guided velocity at `x_BCHW` and scalar `t`; the unconditional half comes first."""
        acts = self._guidance.acts_at(t if guided_at is None else guided_at)
        scale = self._guidance.scale if acts else 1.0
        t_B = t.to(x_BCHW.device).expand(x_BCHW.shape[0])
        if scale == 1.0 and self._guidance.skip_unguided:
            self.nfe += 1
            return self._denoiser(x_BCHW, t_B, self._condition)
        self.nfe += 2
        doubled = self._denoiser(torch.cat((x_BCHW, x_BCHW)), t_B.repeat(2), self._both)
        uncond, cond = doubled.chunk(2)
        return uncond + scale * (cond - uncond)


class AutoguidedVelocity:
    """A velocity guided by a weaker model: guide + scale * (main - guide).

    Source: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself". The guide
    sees `guide_condition`: the same one in the paper, the null one for an unconditional guide.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guide: Denoiser,
        condition: Tensor,
        guide_condition: Tensor,
        guidance: Guidance,
    ) -> None:
        self._denoiser, self._guide = denoiser, guide
        self._condition, self._guide_condition = condition, guide_condition
        self._guidance = guidance
        self.nfe = 0

    def __call__(self, x_BCHW: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
        """The guided velocity; where the scale is 1 the guide is not evaluated."""
        acts = self._guidance.acts_at(t if guided_at is None else guided_at)
        scale = self._guidance.scale if acts else 1.0
        t_B = t.to(x_BCHW.device).expand(x_BCHW.shape[0])
        main = self._denoiser(x_BCHW, t_B, self._condition)
        self.nfe += 1
        if scale == 1.0 and self._guidance.skip_unguided:
            return main
        self.nfe += 1
        weak = self._guide(x_BCHW, t_B, self._guide_condition)
        return weak + scale * (main - weak)
