"""What every model is to the pipeline, ours or a stranger's: something that samples a batch.

Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from evalsuite.config import DtypeName

Condition = Literal["class", "text"]


class SampledModel(Protocol):
    """A model with its sampler. A class of this shape plugs in as `python:package.module:Class`.

    An instance is made without arguments and loaded once in each worker. Everything that decides
    pixels must come through the arguments: whoever keeps state between batches, or draws random
    numbers elsewhere than from `generators`, breaks the promise of equal pixels.

    A plug-in may also have, as class attributes, `num_classes: int` (of class-conditional models),
    `size: (H, W)`, `batch_size: int` and `needs_weights: bool` (True), and, as a method,
    `noise_shape(size) -> (C, H, W)` for noise that is not shaped as the image. An attribute `nfe`,
    set by `sample`, tells the network evaluations per image, a guided pair counted as two.
    """

    Settings: ClassVar[type[BaseModel]]
    """Settings with types and defaults; its fields become plan fields and sweep axes."""

    @property
    def condition(self) -> Condition:
        """What it is conditioned on: `conditions` are label numbers, or prompts."""
        ...

    def load(self, weights: Path | None, ema: str, device: torch.device, dtype: DtypeName) -> None:
        """Load the weights to `device`; called once, before any `sample`."""
        ...

    def sample(
        self,
        noise_BCHW: Tensor,
        conditions: Sequence[Any],
        generators: Sequence[torch.Generator],
        settings: Any,  # noqa: ANN401 - an instance of Settings
    ) -> Tensor:
        """Images [B,3,H,W], float32, nominally in [-1, 1].

        Args:
            noise_BCHW: standard normal, float32, on the device; the first draw of each generator.
            conditions: B labels, or B prompts.
            generators: each sample's own CPU generator, for any further random number.
            settings: an instance of `Settings`.
        """
        ...
