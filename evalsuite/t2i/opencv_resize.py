"""OpenCV's bilinear resize of 8-bit images, to the bit, as the original detector's input has it.

It does not smooth when it shrinks, and it computes in fixed point.
Source: the arithmetic of cv2.resize with INTER_LINEAR for uint8; equal to OpenCV 5.0.
Legend: H, W original; h, w resized.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images

_ONE = 2048
"""Weights are whole numbers out of this."""


def fit_within(size: tuple[int, int], long_edge: int, short_edge: int) -> tuple[int, int]:
    """(h, w) that fits (H, W) into both edges, its shape kept, rounded half up."""
    scale = min(long_edge / max(size), short_edge / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def resize_bilinear(image: Images, size: tuple[int, int]) -> Images:
    """uint8 [H,W,3] to uint8 [h,w,3]."""
    if image.shape[:2] == size:
        return image.copy()
    if image.shape[:2] == (2 * size[0], 2 * size[1]):
        return _halved(image)
    across = _places(image.shape[1], size[1], whole_at_the_edge=True)
    down = _places(image.shape[0], size[0], whole_at_the_edge=False)
    wide = image.astype(np.int32)
    first, second = across.weights_2L[..., None]
    rows = wide[:, across.first_L] * first + wide[:, across.second_L] * second
    first, second = down.weights_2L[..., None, None]
    above = (first * (rows[down.first_L] >> 4)) >> 16
    below = (second * (rows[down.second_L] >> 4)) >> 16
    resized: Images = ((above + below + 2) >> 2).astype(np.uint8)
    return resized


def _halved(image: Images) -> Images:
    """Where both sides are exactly halved OpenCV takes the mean of four pixels instead."""
    four = image.astype(np.int32)
    total = four[::2, ::2] + four[1::2, ::2] + four[::2, 1::2] + four[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


class _Places(NamedTuple):
    """Both neighbours of each new pixel along one side, and their weights out of 2048."""

    first_L: NDArray[np.int64]
    second_L: NDArray[np.int64]
    weights_2L: NDArray[np.int32]


def _places(length: int, resized: int, *, whole_at_the_edge: bool) -> _Places:
    """Each weight is rounded on its own, half to even, so a pair may sum to one more or less.

    Beyond the first and the last pixel a column is taken whole, while a row is added up of two
    equal parts, each cut to whole numbers.
    """
    scale = length / resized
    centres = ((np.arange(resized) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(centres).astype(np.int64)
    part = centres - first.astype(np.float32)
    if whole_at_the_edge:
        part = np.where((first < 0) | (first >= length - 1), np.float32(0), part)
    weights = np.rint(np.stack([np.float32(1) - part, part]) * np.float32(_ONE)).astype(np.int32)
    return _Places(first.clip(0, length - 1), (first + 1).clip(0, length - 1), weights)
