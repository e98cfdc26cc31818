"""Classifier-free guidance as a wrapper around a denoiser.

Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

IntervalEnds = Literal["open", "closed"]
VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""x [B,C,H,W] fp32, t fp32 scalar on the CPU => dx/dt, fp32, shaped as x."""


class Denoiser(Protocol):
    """A velocity network: x [B,C,H,W] fp32, t [B] fp32, condition [B,...] => dx/dt, shaped as x."""

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, condition: Tensor, /) -> Tensor:
        """Evaluate the network once."""
        ...


@dataclass(frozen=True)
class Guidance:
    """How the conditional and the unconditional velocity are combined.

    Attributes:
        scale: uncond + scale * (cond - uncond); 1 is off.
        interval: times (lo, hi) between which guidance acts; outside the scale is 1.
        ends: `open` compares strictly on both sides (PixNerd), `closed` includes both ends.
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
        if self.ends == "open":
            return bool((t > low) & (t < high))
        return bool((t >= low) & (t <= high))


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

    def __call__(self, x_BCHW: Tensor, t: Tensor) -> Tensor:
        """The guided velocity at `x_BCHW` and scalar `t`; the unconditional half comes first."""
        scale = self._guidance.scale if self._guidance.acts_at(t) else 1.0
        batch = x_BCHW.shape[0]
        t_B = t.to(x_BCHW.device).expand(batch)
        if scale == 1.0 and self._guidance.skip_unguided:
            self.nfe += 1
            return self._denoiser(x_BCHW, t_B, self._condition).float()
        self.nfe += 2
        doubled = self._denoiser(torch.cat((x_BCHW, x_BCHW)), t_B.repeat(2), self._both)
        uncond, cond = doubled.float().chunk(2)
        return uncond + scale * (cond - uncond)
