"""TensorFlow 1's bilinear resize, to the bit, and Inception's scale of pixels.

Legend: N images, H height, W width, C channels; S the side of the result.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RESIZE_NAME = "tf1-bilinear-299"
"""What an extractor's `resize` calls this."""
_CENTRE = 128.0
_SCALE = 0.0078125  # 1 / 128, exact in float32


class _Axis(NamedTuple):
    """Two neighbours of each place of the result, and how far it lies between them."""

    low_S: Tensor
    high_S: Tensor
    fraction_S: Tensor


def resize_bilinear(images_NHWC: Tensor, size: int) -> Tensor:
    """Resize uint8 images [N,H,W,C] to float32 [N,S,S,C] in 0..255, as TensorFlow 1 did.

    Source: `ResizeBilinear` with align_corners=False and without half-pixel centres: place i lies
    at i * (float32(in) / float32(out)); no antialias when it shrinks. Columns first, then rows;
    the sums are in float32 and in TensorFlow's order, so that the bits are equal. Each source row
    is interpolated once, and only those that a row of the result needs.
    """
    count, height, width, channels = images_NHWC.shape
    device = images_NHWC.device
    rows, columns = _axis(height, size, device), _axis(width, size, device)
    used_R = torch.unique(torch.cat([rows.low_S, rows.high_S]))
    if len(used_R) < height:
        images_NHWC = images_NHWC.index_select(1, used_R)
    values = images_NHWC.reshape(count * len(used_R), width * channels).float()
    offset_C = torch.arange(channels, device=device)
    left, right = (
        values.index_select(1, (index_S[:, None] * channels + offset_C).flatten())
        for index_S in (columns.low_S, columns.high_S)
    )
    fraction = columns.fraction_S.repeat_interleave(channels)
    wide = right.sub_(left).mul_(fraction).add_(left).view(count, len(used_R), size * channels)
    top, bottom = (
        wide.index_select(1, torch.searchsorted(used_R, index_S))
        for index_S in (rows.low_S, rows.high_S)
    )
    resized = bottom.sub_(top).mul_(rows.fraction_S[:, None]).add_(top)
    return resized.view(count, size, size, channels)


def normalise(pixels: Tensor) -> Tensor:
    """0..255 to -1..0.9921875, in place."""
    return pixels.sub_(_CENTRE).mul_(_SCALE)


def _axis(source: int, size: int, device: torch.device) -> _Axis:
    """Computed on the CPU, where no multiplication is fused with an addition."""
    place_S = np.arange(size, dtype=np.float32) * (np.float32(source) / np.float32(size))
    low_S = np.floor(place_S).astype(np.int64)
    parts = (low_S, np.minimum(low_S + 1, source - 1), place_S - low_S.astype(np.float32))
    return _Axis(*(torch.from_numpy(part).to(device) for part in parts))
