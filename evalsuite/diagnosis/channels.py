"""Channel order: whether colours lie nearer to the reference's when channels change places.

Legend: N images, M reference images, H height, W width, C channels, D numbers of a thumbnail.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.diagnosis.findings import ALARM, CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import Material
from evalsuite.diagnosis.thumbnails import thumbnails
from evalsuite.diagnosis.twins import Twins
from evalsuite.metrics.frechet import (
    ReferenceFactor,
    frechet_distance,
    frechet_fit,
    reference_factor,
)
from evalsuite.metrics.moments import moments_of

GREY_SHARE = 0.03
"""Images are grey where channels differ by less than this share of the contrast of the images."""
_GREY_LEVELS = 1.0
_SIDE = 4
_PER_NUMBER = 2
"""Images for each number of a thumbnail, as a derivative of the distance needs."""
FEWEST = 24
_FLOOR = 0.01
"""Squared levels, so that equal colours have a logarithm."""
_LEAST_ERROR = 0.02
MOST_LEFT = 0.9
"""The reordered distance is at most this share of the other, or the gain explains nothing."""
_AS_IS = (0, 1, 2)
ORDERS = {
    order: "".join("RGB"[c] for c in order)
    for order in itertools.permutations(range(3))
    if order != _AS_IS
}


class Reordered(NamedTuple):
    """The order of channels that lies nearest to the reference.

    Attributes:
        name: such as `BGR`.
        as_is: Frechet distance of thumbnails as they are, in squared grey levels.
        reordered: with channels in this order.
        z: the difference in its standard errors, paired by image.
    """

    name: str
    as_is: float
    reordered: float
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
    """The order of channels, other than the present one, that is nearest to the reference.

    Raises:
        ValueError: fewer than 24 images on a side.
    """
    fewest = min(len(images_NHWC), len(reference_MHWC))
    side = next((s for s in range(_SIDE, 1, -1) if fewest >= _PER_NUMBER * 3 * s * s), None)
    if side is None:
        raise ValueError("channel order needs at least 24 images")
    real = thumbnails(reference_MHWC, side)
    factor = reference_factor(moments_of(_shaken(real)))
    sample_ND = _shaken(thumbnails(images_NHWC, side))
    as_is, influence_N = _distance(sample_ND, factor)
    found = []
    for order, name in ORDERS.items():
        cells = sample_ND.reshape(len(sample_ND), -1, 3)[:, :, list(order)]
        value, other_N = _distance(cells.reshape(sample_ND.shape), factor)
        error = float((influence_N - other_N).std(ddof=1)) / np.sqrt(len(sample_ND))
        found.append(Reordered(name, as_is, value, (as_is - value) / max(error, 1e-9)))
    return min(found, key=lambda one: one.reordered)


def _shaken(thumbnails_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """With noise of a thousandth of a grey level, so that plain grounds have a covariance."""
    noise = np.random.default_rng(0).normal(0, 1e-3, thumbnails_ND.shape)
    return np.asarray(thumbnails_ND + noise)


def _distance(
    sample_ND: NDArray[np.float64], factor: ReferenceFactor
) -> tuple[float, NDArray[np.float64]]:
    fit = frechet_fit(moments_of(sample_ND), factor)
    return fit.value, fit.influence(sample_ND)


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
    if min(len(images), len(real)) < FEWEST:
        return CannotTell(f"there are fewer than {FEWEST} images")
    found = best_order(images, real)
    seen = (
        f"the distance of small pictures to {reference.name} is {found.as_is:.0f} as they are and"
        f" {found.reordered:.0f} with channels as {found.name} ({found.z:.1f} standard errors)"
    )
    if found.z < ALARM or found.reordered > MOST_LEFT * found.as_is:
        return Clear(seen)
    return Finding(
        "channel order",
        capped(found.z),
        f"colours fit the reference as {found.name}, not as RGB: {seen}",
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
