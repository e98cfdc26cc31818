"""Bicubic resizing to a square, in floats as EDM2 does, or in bytes as Pillow does.

Legend: N images, C channels, H height, W width, S the square's side, L length before.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from evalsuite.errors import ConfigError, nearest

_ONE = 2.0**22
"""What a weight of 1 is among Pillow's whole-number weights."""


class Resizing(NamedTuple):
    """A rule that makes any image a square.

    Attributes:
        size: the square's side in pixels.
        centre_crop: cut the largest centred square first; else the image is squeezed.
        in_bytes: round to whole levels after each direction, as Pillow does; else the values are
            floats that may pass 0 and 255 at edges.
    """

    size: int
    centre_crop: bool
    in_bytes: bool


RULES = {
    "bicubic-antialias-float-224": Resizing(224, centre_crop=False, in_bytes=False),
    "bicubic-pillow-224": Resizing(224, centre_crop=False, in_bytes=True),
    "centre-crop-bicubic-pillow-336": Resizing(336, centre_crop=True, in_bytes=True),
}
"""The rules by the names that an extractor's YAML gives as `resize`: that of EDM2
`calculate_metrics.py`, that of dgm-eval `models/dinov2.py`, that of google-research
`cmmd/io_util.py`."""


def resizing_named(name: str) -> Resizing:
    """The rule of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RULES:
        raise ConfigError(f"unknown resize {name!r}: {nearest(name, RULES)}")
    return RULES[name]


def resize(images_NCHW: Tensor, rule: Resizing) -> Tensor:
    """Squares by a rule; an image that has the size already keeps its values.

    The filter is the cubic one with a = -0.5, widened when the image shrinks (antialias), in both
    torch and Pillow. In floats it is torch's own, whose float32 weights are up to 0.005 levels off
    the formula. In bytes it is exactly Pillow's.

    Args:
        images_NCHW: uint8 [N,C,H,W].
        rule: what to do.

    Returns:
        float32 [N,C,S,S] on the scale of 0 to 255.
    """
    images_NCHW = _centre_crop(images_NCHW) if rule.centre_crop else images_NCHW
    if rule.in_bytes:
        return _pillow_bicubic(images_NCHW, rule.size)
    values_NCHW, square = images_NCHW.to(torch.float32), (rule.size, rule.size)
    if values_NCHW.shape[2:] == square:
        return values_NCHW
    return interpolate(values_NCHW, square, mode="bicubic", align_corners=False, antialias=True)


def _pillow_bicubic(images_NCHW: Tensor, size: int) -> Tensor:
    """Rows first, then columns, whole levels after each.

    Sums of weights of 22 binary places and bytes are whole numbers below 2^53, so float64 products
    have no rounding, on any device.
    """
    height, width = images_NCHW.shape[2:]
    values_NCHW = images_NCHW.to(torch.float64)
    if width != size:
        values_NCHW = _levels(values_NCHW @ _weights(width, size).to(values_NCHW.device).T)
    if height != size:
        values_NCHW = _levels(_weights(height, size).to(values_NCHW.device) @ values_NCHW)
    return values_NCHW.to(torch.float32)


def _levels(sums: Tensor) -> Tensor:
    """The nearest of 0 to 255, halves upwards."""
    return ((sums + _ONE / 2) / _ONE).floor().clamp(0, 255)


@functools.lru_cache(maxsize=8)
def _weights(length: int, size: int) -> Tensor:
    """Weights of `length` values in each of `size` ones, times 2^22 and rounded: [size, length].

    Source: Keys 1981 with a = -0.5; Pillow `src/libImaging/Resample.c` for the 22 places.
    """
    scale = length / size
    widened = max(scale, 1.0)
    centres_S = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    places_L = torch.arange(length, dtype=torch.float64) + 0.5
    t_SL = ((places_L - centres_S[:, None]) / widened).abs()
    near_SL = (1.5 * t_SL - 2.5) * t_SL * t_SL + 1
    far_SL = (((t_SL - 5) * t_SL + 8) * t_SL - 4) * -0.5
    weights_SL = torch.where(t_SL < 1, near_SL, torch.where(t_SL < 2, far_SL, 0.0))
    weights_SL *= _ONE / weights_SL.sum(dim=1, keepdim=True)
    return (weights_SL.abs() + 0.5).floor() * weights_SL.sign()


def _centre_crop(images_NCHW: Tensor) -> Tensor:
    height, width = images_NCHW.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images_NCHW[:, :, top : top + side, left : left + side]
