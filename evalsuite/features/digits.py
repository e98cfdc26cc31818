"""The digits extractor: a small convolutional classifier of 16 x 16 RGB handwritten digits.

Its numbers say something about handwritten digits only; they never compare with Inception's.
`configs/extractors/digits-convnet.md` is the card of its weights.

Legend: B batch, C channels, H height, W width, D pooled width, P spatial width, K classes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from evalsuite.errors import DataError
from evalsuite.features.base import FeatureBatch
from evalsuite.metrics.exact_arithmetic import exact_float32

IMAGE_SIZE = 16
POOL_WIDTH = 64
SPATIAL_CHANNELS = 7
SPATIAL_WIDTH = 4 * 4 * SPATIAL_CHANNELS
NUM_CLASSES = 10


class DigitsOutput(NamedTuple):
    """Pooled features [B,64], spatial features [B,112] (h, w, c flattened) and logits [B,10]."""

    pool_BD: Tensor
    spatial_BP: Tensor
    logits_BK: Tensor


class DigitsConvNet(nn.Module):
    """Five 3 x 3 convolutions over 16 x 16, 8 x 8 and 4 x 4 maps, a mean and a linear layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        """Build the layers; `dropout` acts before the linear layer and in training only."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, POOL_WIDTH, 3, padding=1)
        self.conv4 = nn.Conv2d(POOL_WIDTH, POOL_WIDTH, 3, padding=1)
        self.conv5 = nn.Conv2d(POOL_WIDTH, POOL_WIDTH, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(POOL_WIDTH, NUM_CLASSES)

    def forward(self, images_BCHW: Tensor) -> DigitsOutput:
        """Features and logits of images [B,3,16,16] in [-1, 1], float32."""
        h = relu(self.conv1(images_BCHW))
        h = max_pool2d(relu(self.conv2(h)), 2)
        h = relu(self.conv3(h))
        h = max_pool2d(relu(self.conv4(h)), 2)
        map_BCHW = relu(self.conv5(h))
        pool_BD = map_BCHW.mean(dim=(2, 3))
        spatial_BP = map_BCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return DigitsOutput(pool_BD, spatial_BP, self.classifier(self.dropout(pool_BD)))


def to_unit_range(images_NHWC: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [N,H,W,C] as float32 [N,C,H,W] in [-1, 1]."""
    images = torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(device)
    return images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


class DigitsExtractor:
    """`DigitsConvNet` as an extractor: float32, convolutions without TF32, fixed batches."""

    def __init__(
        self, weights: Mapping[str, Tensor], device: torch.device, batch_size: int = 50
    ) -> None:
        """Load `weights`, whose keys and shapes must match exactly.

        Raises:
            DataError: a key is missing, unknown or has another shape.
        """
        network = DigitsConvNet()
        expected = {key: value.shape for key, value in network.state_dict().items()}
        if {key: value.shape for key, value in weights.items()} != expected:
            raise DataError(
                "the weights are not those of the digits extractor: other keys or shapes"
            )
        network.load_state_dict(weights)
        self.batch_size = batch_size
        self._device = device
        self._network = network.float().eval().requires_grad_(False).to(device)

    def __call__(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
        """Features of exactly `batch_size` images, uint8 [N,16,16,3].

        Raises:
            DataError: the images are not 16 x 16 RGB.
            ValueError: another dtype or another number of images.
        """
        if images_NHWC.ndim != 4 or images_NHWC.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            shape = " x ".join(str(length) for length in images_NHWC.shape[1:])
            raise DataError(
                f"the digits extractor takes {IMAGE_SIZE} x {IMAGE_SIZE} x 3 (RGB) images only, "
                f"these are {shape}; choose the extractor of the model's reference"
            )
        if images_NHWC.dtype != np.uint8 or len(images_NHWC) != self.batch_size:
            raise ValueError(f"expected {self.batch_size} uint8 images in a batch")
        with exact_float32(self._device):
            output = self._network(to_unit_range(images_NHWC, self._device))
            probabilities_BK = output.logits_BK.softmax(dim=-1)
        return FeatureBatch(
            output.pool_BD.cpu().numpy(),
            output.spatial_BP.cpu().numpy(),
            probabilities_BK.cpu().numpy(),
        )
