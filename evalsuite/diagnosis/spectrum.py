"""Resizing: fine detail that the reference has and samples lack, or pixels that stand in blocks.

Legend: N images, H height, W width, C channels, B bands.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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

_CROP = 256
_MOST_IMAGES = 1000
EDGES = (0.06, 0.125, 0.19, 0.25, 0.31, 0.375, 0.5)
"""Edges of bands in cycles per pixel; 0.5 is the finest that a row of pixels can hold."""

_COARSE, _FINE = slice(0, 2), slice(4, 6)
_FLOOR = 1.0
"""Power that rounding to levels gives anyway."""
_BETWEEN_SETS = 0.1
"""Spread of the logarithm between clean sets (docs/why.md)."""
_BLOCKY = 0.2


class Blocks(NamedTuple):
    """How often pixels equal their neighbour within blocks of a side, and across their edges."""

    side: int
    inside: float
    across: float


def band_powers(images_NHWC: Images) -> NDArray[np.float64]:
    """Mean power of luma in each band, of each image: float64 [N,B].

    The centre of large images is taken; a Hann window keeps their edges out.
    """
    step = max(1, -(-len(images_NHWC) // _MOST_IMAGES))
    height, width = (min(side, _CROP) for side in images_NHWC.shape[1:3])
    top, left = (images_NHWC.shape[1] - height) // 2, (images_NHWC.shape[2] - width) // 2
    window_HW = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    radius_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    band_HW = np.digitize(radius_HW, EDGES) - 1
    counts_B = np.array([(band_HW == b).sum() for b in range(len(EDGES) - 1)])
    powers = []
    for start in range(0, len(images_NHWC), 64 * step):
        part = images_NHWC[start : start + 64 * step : step]
        grey = part[:, top : top + height, left : left + width].astype(np.float64).mean(axis=-1)
        grey -= grey.mean(axis=(1, 2), keepdims=True)
        power_NHW = np.abs(np.fft.fft2(grey * window_HW)) ** 2
        sums = [power_NHW[:, band_HW == b].sum(axis=1) for b in range(len(EDGES) - 1)]
        powers.append(np.stack(sums, axis=1) / np.maximum(counts_B, 1))
    return np.concatenate(powers)


def pixel_blocks(images_NHWC: Images, sides: tuple[int, ...] = (2, 3, 4, 8)) -> Blocks:
    """The side of blocks of equal pixels that stands out most, as nearest-neighbour scaling makes.

    Flat grounds are left out: only pairs of unequal rows of pixels beside them count.
    """
    images = images_NHWC[:_MOST_IMAGES]
    equal = (images[:, :, 1:] == images[:, :, :-1]).all(axis=-1)
    detailed = ~equal.all(axis=2, keepdims=True) & ~_flat(images)
    found = []
    for side in sides:
        edge = np.arange(1, images.shape[2]) % side == 0
        if not edge.any():
            continue
        inside, across = (
            float(equal[:, :, at][detailed[:, :, at]].mean()) if detailed[:, :, at].any() else 1.0
            for at in (~edge, edge)
        )
        found.append(Blocks(side, inside, across))
    return max(found, key=lambda one: one.inside - one.across, default=Blocks(1, 0.0, 0.0))


def _flat(images_NHWC: Images) -> NDArray[np.bool_]:
    """Pairs of pixels at the ends of the range, where clamping makes neighbours equal."""
    ends = ((images_NHWC == 0) | (images_NHWC == 255)).all(axis=-1)
    return np.asarray(ends[:, :, 1:] & ends[:, :, :-1])


class Detail(NamedTuple):
    """Power of fine detail against that of the reference.

    Attributes:
        ratio: of geometric means.
        z: logarithm of it in standard deviations of sampling and of clean sets.
    """

    ratio: float
    z: float


def fine_detail(images_NHWC: Images, reference_MHWC: Images) -> Detail:
    """Compare the share of power in the finest bands with the reference's.

    A share, so that brightness and contrast do not count.
    """
    ours, theirs = (_shares(images) for images in (images_NHWC, reference_MHWC))
    error = np.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
    gain = float(ours.mean() - theirs.mean())
    return Detail(float(np.exp(gain)), gain / float(np.hypot(error, _BETWEEN_SETS)))


def _shares(images_NHWC: Images) -> NDArray[np.float64]:
    """Logarithm of the power of the finest bands over that of coarser ones, of each image."""
    powers_NB = band_powers(images_NHWC) + _FLOOR
    fine_N, coarse_N = powers_NB[:, _FINE].mean(axis=1), powers_NB[:, _COARSE].mean(axis=1)
    return np.asarray(np.log(fine_N) - np.log(coarse_N))


def probe_resizing(material: Material) -> Outcome:
    """Whether samples were made at another size, or scaled down and up again."""
    images, real, expected = material.images_MHWC, material.reference, material.expected
    height, width = material.size
    if expected is not None and expected.given and tuple(expected.preset.size) != (height, width):
        wanted = expected.preset.size
        return Finding(
            "resizing (wrong native size)",
            RECORDED,
            f"samples are {height}x{width}, {expected.preset.name} makes {wanted[0]}x{wanted[1]}",
            "score samples at the size at which the model makes them",
        )
    if images is None:
        return CannotTell(material.why_no("pixels"))
    blocks = pixel_blocks(images)
    seen = (
        f"{blocks.inside:.0%} of pixels equal their neighbour within blocks of {blocks.side},"
        f" {blocks.across:.0%} across their edges"
    )
    if blocks.inside - blocks.across > _BLOCKY:
        z = (blocks.inside - blocks.across) / _BLOCKY * ALARM
        return Finding(
            "resizing (nearest-neighbour scaling)",
            capped(z),
            f"{seen}: pixels were repeated",
            "score samples at the size at which the model makes them",
        )
    if real is None or real.images_MHWC is None:
        return CannotTell(f"{seen}; fine detail is compared with images of the reference")
    detail = fine_detail(images, real.images_MHWC)
    seen = f"the share of fine detail is {detail.ratio:.2f} of that of {real.name}"
    if -detail.z < ALARM:
        return Clear(f"{seen} ({detail.z:+.1f} standard deviations)")
    return Finding(
        "resizing",
        capped(-detail.z),
        f"{seen}: samples were made smaller and then larger, or blurred ({-detail.z:.1f} standard"
        " deviations)",
        "score samples at the size at which the model makes them; look for a resize when saving",
    )
