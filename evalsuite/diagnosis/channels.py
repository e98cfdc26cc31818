"""Channel order: whether colours lie nearer to the reference's when channels change places.

Legend: N images, M reference images, H height, W width, C channels, B bins
of colours.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.diagnosis.findings import ALARM, CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import Material
from evalsuite.diagnosis.twins import Twins
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.moments import moments_of

GREY_SHARE = 0.03
"""Images are grey where channels differ by less than this share of the contrast of the images."""
_GREY_LEVELS = 1.0
_LEVELS = 16
"""Of a channel in the histogram of colours."""
_MOST_ACROSS = 64
_LEAST_GAIN = 0.02
_FLOOR = 0.01
"""Squared levels, so that equal colours have a logarithm."""
_LEAST_ERROR = 0.02
MOST_LEFT = 0.9
"""Of the distance of colours to those of samples made again: or the gain explains nothing."""
_AS_IS = (0, 1, 2)
ORDERS = {
    order: "".join("RGB"[c] for c in order)
    for order in itertools.permutations(range(3))
    if order != _AS_IS
}


class Reordered(NamedTuple):
    """The order of channels that fits the reference best.

    Attributes:
        name: such as `BGR`.
        gain: by how much colours in this order are likelier, in nats for each pixel.
        z: the gain in its standard errors, paired by image.
    """

    name: str
    gain: float
    z: float


def colourfulness(images_NHWC: Images) -> float:
    """Mean distance of channels from their mean, in grey levels."""
    images = images_NHWC.astype(np.float64)
    return float(np.abs(images - images.mean(axis=-1, keepdims=True)).mean())


def is_grey(images_NHWC: Images) -> bool:
    """Whether channels are so much alike that their order leaves no trace."""
    contrast = float(images_NHWC.std())
    return colourfulness(images_NHWC) < max(_GREY_LEVELS, GREY_SHARE * contrast)


def best_order(images_NHWC: Images, reference_MHWC: Images) -> Reordered:
    """The order of channels, other than the present one, whose colours the reference has most.

    The likelihood of an image is that of its pixels' colours in a histogram of the reference's.
    """
    log_share_B = _log_shares(reference_MHWC)
    as_is_N = log_share_B[_bins(images_NHWC)].mean(axis=1)
    found = []
    for order, name in ORDERS.items():
        gain_N = log_share_B[_bins(images_NHWC[..., list(order)])].mean(axis=1) - as_is_N
        error = max(float(gain_N.std(ddof=1)) / np.sqrt(len(gain_N)), _LEAST_ERROR)
        found.append(Reordered(name, float(gain_N.mean()), float(gain_N.mean()) / error))
    return max(found, key=lambda one: one.gain)


def _log_shares(images_NHWC: Images) -> NDArray[np.float64]:
    """Logarithms of the shares of colours, a hundredth of them spread evenly."""
    counts_B = np.bincount(_bins(images_NHWC).ravel(), minlength=_LEVELS**3)
    return np.asarray(np.log(0.99 * counts_B / counts_B.sum() + 0.01 / _LEVELS**3))


def _bins(images_NHWC: Images) -> NDArray[np.int64]:
    """The bin of the colour of every pixel, of large images of some: [N, pixels]."""
    step = max(1, max(images_NHWC.shape[1:3]) // _MOST_ACROSS)
    levels = images_NHWC[:, ::step, ::step].astype(np.int64) * _LEVELS // 256
    bins = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
    return bins.reshape(len(bins), -1)


def probe_channels(material: Material) -> Outcome:
    """Whether red and blue, or other channels, changed places."""
    images, reference = material.images_MHWC, material.reference
    if images is None:
        return CannotTell(material.why_no("pixels"))
    if is_grey(images):
        if material.twins is not None and colourfulness(images) > 0:
            return _by_twins(material.twins)
        levels = colourfulness(images)
        return CannotTell(f"the images are grey: their channels differ by {levels:.2f} levels")
    real = reference.images_MHWC if reference else None
    if reference is None or real is None:
        return CannotTell("colours are compared with images of the reference, which has none here")
    if is_grey(real):
        return CannotTell(f"the images of reference {reference.name} are grey")
    found = best_order(images, real)
    seen = (
        f"as {found.name} their colours are {found.gain:+.2f} nats a pixel likelier among those of"
        f" {reference.name} ({found.z:.1f} standard errors)"
    )
    if found.z < ALARM or found.gain < _LEAST_GAIN:
        return Clear(seen)
    return Finding(
        "channel order",
        capped(found.z),
        f"colours fit the reference as {found.name} and not as RGB: {seen}",
        f"reorder channels ({found.name}): OpenCV reads and writes BGR, everyone else RGB",
        _effect(material, images, found.name),
    )


def _by_twins(twins: Twins) -> Outcome:
    """Even in nearly grey images channels differ as the model made them."""
    samples, made = twins.samples_THWC, twins.twins_THWC
    chroma_THWC = samples - samples.astype(np.float64).mean(axis=-1, keepdims=True)
    theirs_THWC = made - made.astype(np.float64).mean(axis=-1, keepdims=True)
    apart_T = _squared(chroma_THWC - theirs_THWC)
    found = []
    for order, name in ORDERS.items():
        moved_T = _squared(chroma_THWC[..., list(order)] - theirs_THWC)
        gain_T = np.log(apart_T + _FLOOR) - np.log(moved_T + _FLOOR)
        error = max(float(gain_T.std(ddof=1)) / np.sqrt(len(gain_T)), _LEAST_ERROR)
        found.append((float(gain_T.mean()) / error, float(gain_T.mean()), name))
    z, gain, name = max(found)
    seen = (
        f"beside the same samples made again, colours lie {np.exp(-gain):.2f} times as far with"
        f" channels as {name} as they do as they are"
    )
    if z < ALARM or np.exp(-gain) > MOST_LEFT:
        return Clear(seen)
    return Finding(
        "channel order",
        capped(z),
        f"{seen} ({z:.1f} standard errors)",
        f"reorder channels ({name}): OpenCV reads and writes BGR, everyone else RGB",
    )


def _squared(change_THWC: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((change_THWC**2).mean(axis=(1, 2, 3)))


def _effect(material: Material, images_NHWC: Images, name: str) -> float | None:
    """What the order adds to the distance of features."""
    if material.embed is None or material.reference is None or material.features is None:
        return None
    factor = material.reference.factor
    if factor is None or len(material.features.pool_ND) != len(images_NHWC):
        return None
    order = ["RGB".index(letter) for letter in name]
    mended_ND = material.embed(np.ascontiguousarray(images_NHWC[..., order])).pool_ND
    before = frechet_distance(moments_of(material.features.pool_ND), factor)
    return before - frechet_distance(moments_of(mended_ND), factor)
