"""Inception-2015-12-05 as an extractor: uint8 images of any size in, three features out.

Legend: N images, H, W, C; B images of one pass.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.features.base import FeatureBatch
from evalsuite.features.inception.layers import IMAGE_CHANNELS, IMAGE_SIZE
from evalsuite.features.inception.network import (
    InceptionNetwork,
    InceptionOutput,
    layout_on,
)
from evalsuite.features.inception.resize import normalise, resize_bilinear
from evalsuite.features.inception.weights import InceptionWeights
from evalsuite.metrics.exact_arithmetic import exact_float32

_CPU_PASS = 4
"""Images of one pass on a CPU, whose activations then stay near its caches (measured)."""


class InceptionExtractor:
    """The network with resize, softmax and fixed batches; float32, without TF32."""

    def __init__(
        self,
        weights: InceptionWeights,
        device: torch.device,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Place `weights` on `device`; `dtype` is that of convolutions, float32 or bfloat16."""
        self.batch_size = batch_size
        self._device = device
        self._pass_size = batch_size if device.type == "cuda" else min(_CPU_PASS, batch_size)
        with torch.inference_mode():
            self._network = InceptionNetwork(weights, device, self._pass_size, dtype)

    def __call__(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
        """Features of exactly `batch_size` images, uint8 [N,H,W,3] of any size.

        Raises:
            DataError: the images are not RGB.
            ValueError: another dtype or another number of images.
        """
        if images_NHWC.ndim != 4 or images_NHWC.shape[3] != IMAGE_CHANNELS:
            shape = " x ".join(str(length) for length in images_NHWC.shape[1:])
            raise DataError(f"Inception takes height x width x 3 (RGB) images, these are {shape}")
        if images_NHWC.dtype != np.uint8 or len(images_NHWC) != self.batch_size:
            raise ValueError(f"expected {self.batch_size} uint8 images in a batch")
        with exact_float32(self._device):
            passes = [
                self._one_pass(images_NHWC[start : start + self._pass_size])
                for start in range(0, self.batch_size, self._pass_size)
            ]
            output = InceptionOutput(*(torch.cat(part) for part in zip(*passes, strict=True)))
            probabilities_BK = output.logits_BK.softmax(dim=-1).float()
        return FeatureBatch(
            output.pool_BD.cpu().numpy(),
            output.spatial_BP.cpu().numpy(),
            probabilities_BK.cpu().numpy(),
        )

    def _one_pass(self, images_BHWC: NDArray[np.uint8]) -> InceptionOutput:
        pixels = torch.from_numpy(np.ascontiguousarray(images_BHWC)).to(self._device)
        resized_BHWC = normalise(resize_bilinear(pixels, IMAGE_SIZE))
        layout = layout_on(self._device)
        return self._network(resized_BHWC.permute(0, 3, 1, 2).contiguous(memory_format=layout))
