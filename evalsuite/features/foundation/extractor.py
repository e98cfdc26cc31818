"""A vision transformer as an extractor: fixed batches, float32 arithmetic without shortcuts.

Legend: N images, B batch, C channels, H height, W width, S input side, D feature width.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.features.base import FeatureBatch
from evalsuite.features.foundation.resizing import Resizing, resize
from evalsuite.metrics.exact_arithmetic import exact_float32

Triple = tuple[float, float, float]


class FoundationExtractor:
    """Resizes, normalises and embeds; gives pooled features alone."""

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        resizing: Resizing,
        normalisation: tuple[Triple, Triple],
        device: torch.device,
        batch_size: int,
    ) -> None:
        """Put an embedding to work.

        Args:
            embed: normalised images [B,3,S,S] float32 on `device` => features [B,D] float32.
            resizing: how images become squares.
            normalisation: mean and standard deviation of red, green and blue on 0 to 1.
            device: where it computes.
            batch_size: images of one pass.
        """
        self.batch_size = batch_size
        self._embed = embed
        self._resizing = resizing
        self._device = device
        mean, std = (torch.tensor(values, device=device) for values in normalisation)
        self._mean_3, self._std_3 = mean.reshape(1, 3, 1, 1), std.reshape(1, 3, 1, 1)

    def __call__(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
        """Features of exactly `batch_size` images, uint8 [N,H,W,3] of any size.

        Raises:
            DataError: the images are not RGB.
            ValueError: another dtype or another number of images.
        """
        if images_NHWC.ndim != 4 or images_NHWC.shape[3] != 3:
            shape = " x ".join(str(length) for length in images_NHWC.shape[1:])
            raise DataError(f"the extractor takes RGB images, height x width x 3, not {shape}")
        if images_NHWC.dtype != np.uint8 or len(images_NHWC) != self.batch_size:
            raise ValueError(f"expected {self.batch_size} uint8 images in a batch")
        with exact_float32(self._device):
            images = torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(self._device)
            features_BD = self._embed(self._normalised(images.permute(0, 3, 1, 2)))
        return FeatureBatch(features_BD.float().cpu().numpy(), None, None)

    def _normalised(self, images_NCHW: Tensor) -> Tensor:
        unit_NCSS = resize(images_NCHW, self._resizing) / 255
        return (unit_NCSS - self._mean_3) / self._std_3
