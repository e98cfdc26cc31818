"""JPEG: whether pixels were compressed before they became what is scored.

What was once compressed at quality q changes less when it is compressed at q again than it does at
qualities beside it (a "ghost"), and only where the grid of 8 x 8 blocks lies as it lay then.
Source: Farid 2009, "Exposing digital forgeries from JPEG ghosts".

Legend: N images, H height, W width, C channels, Q qualities.
"""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.images import Images
from evalsuite.diagnosis.findings import (
    ALARM,
    RECORDED,
    CannotTell,
    Clear,
    Finding,
    Outcome,
    capped,
)
from evalsuite.diagnosis.material import Material

BLOCK = 8
LOWEST, HIGHEST = 20, 99
"""Qualities that are tried."""
_CROP = 64
_MOST_IMAGES = 512
_ACROSS = 16
"""Images of one row of the mosaic; a JPEG has at most 65,535 pixels a side."""
_NEAR, _FAR = 3, 7
"""Qualities beside q lie so far from it."""
_FLOOR = 0.05
"""Squared grey levels that are added to a squared change, so that 0 has a logarithm."""
_BETWEEN_SETS = 0.04
"""Depth of the deepest dip of clean sets: it has a preferred quality in each (docs/why.md)."""
_LUMA = np.array([0.299, 0.587, 0.114])


class Ghost(NamedTuple):
    """The quality at which images change less than beside it.

    Attributes:
        quality: of libjpeg, 1 to 100.
        dip: mean logarithm of (change at it / change beside it), on the grid against off it.
        z: `-dip` in standard deviations: its error over images, and what clean sets show.
    """

    quality: int
    dip: float
    z: float


def find_ghost(images_NHWC: Images) -> Ghost:
    """The deepest ghost of a set of images, whether or not it means anything.

    Luma alone is looked at, so that it does not matter how colours were subsampled.

    Args:
        images_NHWC: uint8, at least 2 of at least 8 x 8.

    Raises:
        ValueError: fewer or smaller images.
    """
    luma_NHW = _luma(images_NHWC)
    if len(luma_NHW) < 2:
        raise ValueError("a ghost needs at least 2 images")
    qualities_Q = np.arange(LOWEST, HIGHEST + 1)
    # Off the grid the same content has no ghost: it stands for what these images do uncompressed.
    apart_NHW = np.roll(luma_NHW, (BLOCK // 2, BLOCK // 2), axis=(1, 2))
    ratio_QN = np.stack(
        [_log_change(luma_NHW, int(q)) - _log_change(apart_NHW, int(q)) for q in qualities_Q]
    )
    return _deepest(qualities_Q, ratio_QN)


def _deepest(qualities_Q: NDArray[np.int64], ratio_QN: NDArray[np.float64]) -> Ghost:
    found = []
    for place, quality in enumerate(qualities_Q):
        apart_Q = np.abs(qualities_Q - quality)
        beside_N = ratio_QN[(apart_Q >= _NEAR) & (apart_Q <= _FAR)].mean(axis=0)
        dips_N = ratio_QN[place] - beside_N
        error = np.hypot(float(dips_N.std(ddof=1)) / np.sqrt(len(dips_N)), _BETWEEN_SETS)
        dip = float(dips_N.mean())
        found.append(Ghost(int(quality), dip, float(-dip / error)))
    return max(found, key=lambda one: one.z)


def _luma(images_NHWC: Images) -> NDArray[np.uint8]:
    """Rounded luma of the top left corners, whole blocks: uint8 [N,H,W]."""
    height, width = (min(side, _CROP) // BLOCK * BLOCK for side in images_NHWC.shape[1:3])
    if not height or not width:
        raise ValueError("images are smaller than a block of 8 x 8")
    step = max(1, -(-len(images_NHWC) // _MOST_IMAGES))
    corner = images_NHWC[::step, :height, :width].astype(np.float64)
    return np.asarray(np.rint(corner @ _LUMA), dtype=np.uint8)


def _log_change(luma_NHW: NDArray[np.uint8], quality: int) -> NDArray[np.float64]:
    """Logarithm of the mean squared change of each image by one compression."""
    count, height, width = luma_NHW.shape
    rows = -(-count // _ACROSS)
    padded = np.zeros((rows * _ACROSS, height, width), np.uint8)
    padded[:count] = luma_NHW
    tiles = padded.reshape(rows, _ACROSS, height, width)
    mosaic = np.ascontiguousarray(tiles.transpose(0, 2, 1, 3).reshape(rows * height, -1))
    buffer = io.BytesIO()
    Image.fromarray(mosaic).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        again = np.asarray(picture).reshape(rows, height, _ACROSS, width).transpose(0, 2, 1, 3)
    change = again.reshape(padded.shape).astype(np.float64)[:count] - luma_NHW
    return np.asarray(np.log((change**2).mean(axis=(1, 2)) + _FLOOR))


def probe_jpeg(material: Material) -> Outcome:
    """Whether the pixels went through JPEG."""
    if material.codec == "lossy":
        return Finding(
            "JPEG blocks",
            RECORDED,
            "the samples are lossy files (JPEG or WebP): their pixels are not what the model made",
            "save samples as PNG or NPZ, and score those",
        )
    images = material.images_MHWC
    if images is None:
        return CannotTell(material.why_no("pixels"))
    if min(images.shape[1:3]) < BLOCK:
        return CannotTell("the images are smaller than a block of 8 x 8")
    ghost = find_ghost(images)
    change = 1 - np.exp(ghost.dip)
    seen = (
        f"compressed again at quality {ghost.quality}, images change by {change:.0%} less than at"
        f" the qualities beside it ({ghost.z:.1f} standard deviations)"
    )
    if ghost.z < ALARM:
        return Clear(f"no JPEG quality leaves images as they are: {seen}")
    return Finding(
        "JPEG blocks",
        capped(ghost.z),
        f"the pixels were JPEG of about quality {ghost.quality}: {seen}",
        "save samples as PNG or NPZ, and score those",
    )
