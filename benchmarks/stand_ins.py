"""Stand-ins for a sampler and an extractor on a GPU: its time, and pictures like its own.

`Waiting` sleeps, which holds no lock of Python's and no core, as a GPU that computes does not;
`Computing` multiplies matrices on the worker's one thread. Their pictures have the spectrum of
photographs, so that PNG has as much to do as with real samples (0.9 of their raw size).
Legend: B batch, C channels, H height, W width.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from evalsuite.features.base import FeatureBatch

_SIDE = 512


def pictures(shape: tuple[int, int, int, int]) -> Tensor:
    """Float images [B,C,H,W] of amplitude 1 / frequency with a little noise, within [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    height, width = shape[2:]
    white = torch.fft.rfft2(torch.randn(shape, generator=generator))
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (rows**2 + columns**2).sqrt().clamp(min=1 / max(height, width))
    smooth = torch.fft.irfft2(white / frequency, s=(height, width))
    return smooth / smooth.std() * 0.5 + 0.01 * torch.randn(shape, generator=generator)


class _StandIn:
    """What both have; a plug-in as `evalsuite.models.protocol` describes it."""

    condition, num_classes, size, batch_size = "class", 1000, (256, 256), 16
    needs_weights = False

    class Settings(BaseModel, extra="forbid"):
        seconds_per_image: float = 0.0
        products_per_image: int = 0

    def load(self, weights: Path | None, ema: str, device: torch.device, dtype: str) -> None:  # noqa: ARG002
        """Nothing to load."""
        self._x_BCHW = torch.empty(0)
        self._square = torch.randn(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
        self._product = torch.empty(_SIDE, _SIDE)

    def _pictures(self, noise_BCHW: Tensor) -> Tensor:
        if self._x_BCHW.shape != noise_BCHW.shape:
            self._x_BCHW = pictures(tuple(noise_BCHW.shape))
        return self._x_BCHW


class Waiting(_StandIn):
    """A sampler that waits."""

    def sample(
        self,
        noise_BCHW: Tensor,
        conditions: Sequence[Any],
        generators: Sequence[torch.Generator],  # noqa: ARG002
        settings: _StandIn.Settings,
    ) -> Tensor:
        """The same pictures each time."""
        time.sleep(settings.seconds_per_image * len(conditions))
        return self._pictures(noise_BCHW)


class Computing(_StandIn):
    """A sampler that multiplies matrices."""

    def sample(
        self,
        noise_BCHW: Tensor,
        conditions: Sequence[Any],
        generators: Sequence[torch.Generator],  # noqa: ARG002
        settings: _StandIn.Settings,
    ) -> Tensor:
        """The same pictures each time."""
        for _ in range(settings.products_per_image * len(conditions)):
            torch.mm(self._square, self._square, out=self._product)
        return self._pictures(noise_BCHW)


class WaitingExtractor:
    """Inception's rate on one H200 (1,549 images/s in batches of 64) and widths of its features."""

    batch_size: ClassVar[int] = 64

    def __call__(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
        """Zeros."""
        count = len(images_NHWC)
        time.sleep(count / 1549)
        return FeatureBatch(
            np.zeros((count, 2048), np.float32), np.zeros((count, 2023), np.float32), None
        )
