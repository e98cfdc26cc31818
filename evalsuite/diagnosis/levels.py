"""uint8: whether pixels were truncated where they should have been rounded.

Truncating is rounding a picture that is darker by half a level: no single set shows which of the
two was done. It is seen beside twins, and where a second conversion has left levels out: more often
than reference images do, or at equal distances where there are none.

Legend: N and M images, H height, W width, C channels.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.diagnosis.findings import ALARM, CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import Material

_INNER = (6, 249)
"""Levels that clamping leaves alone."""
_BETWEEN_SETS = 0.05
"""Mean shift in levels between twins and samples that nothing happened to."""
_SHIFT, _SHIFT_EXACT = (0.35, 0.65), (0.25, 1.1)
"""How much darker samples are that were truncated: half a level; where they equal their twins in
all else, anything up to a level."""
_EQUAL = 1.2
"""Root mean square difference up to which they do."""
_MISSING = 0.1
"""A level is missing where it has less than this share of the rarer one's pixels of the two levels
beside it that are populated, ..."""
_POPULATED = 20
"""... which takes at least so many, ..."""
_REACH = 17
"""... and that lie at most so many levels away, as far as pixels of four bits lie apart."""
_FEWEST_MISSING = 4
_FEWEST_REGULAR = 8
_REGULAR = 0.9
"""Of levels that are left out, or remain, at equal distances, without reference images: share of
those that do, and of those that would. A drawing in few colours leaves out any."""
_SHIFTS = (-0.4, -0.2, 0.0, 0.2, 0.4)
"""In levels: where the first and the last one were before rounding."""


class Levels(NamedTuple):
    """The histogram of grey levels between the ends.

    Attributes:
        missing: levels that hardly occur though others do on both sides.
        populated: levels that could be missing.
        odd: share of pixels at odd levels.
        regular: whether missing levels, or those that remain, lie at equal distances, as a second
            conversion leaves them.
    """

    missing: int
    populated: int
    odd: float
    regular: bool


def look_at_levels(images_NHWC: Images) -> Levels:
    """Count levels that are left out."""
    counts = np.bincount(images_NHWC.ravel(), minlength=256).astype(np.float64)
    inner = np.arange(_INNER[0], _INNER[1] + 1)
    beside = _beside(counts)[inner]
    populated = beside >= _POPULATED
    missing = populated & (counts[inner] < _MISSING * beside)
    total = max(counts[inner].sum(), 1.0)
    return Levels(
        int(missing.sum()),
        int(populated.sum()),
        float(counts[inner[inner % 2 == 1]].sum() / total),
        _are_regular(missing, populated) or _are_regular(populated & ~missing, populated),
    )


def _beside(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels of the rarer of the two populated levels around each level; 0 without two in reach.

    Levels at the ends, where clamping gathers pixels, say nothing of those beside them.
    """
    low, high = _INNER[0] - 1, _INNER[1] + 1
    places = low + np.flatnonzero(counts[low : high + 1] >= _POPULATED)
    found = np.zeros(len(counts))
    for level in range(_INNER[0], _INNER[1] + 1):
        below, above = places[places < level][-1:], places[places > level][:1]
        near = [*below[below >= level - _REACH], *above[above <= level + _REACH]]
        if len(near) == 2:
            found[level] = counts[near].min()
    return found


def _are_regular(chosen: NDArray[np.bool_], populated: NDArray[np.bool_]) -> bool:
    """Whether chosen levels are nearly all, and nearly the only, ones of some even spacing."""
    places = np.flatnonzero(chosen)
    if len(places) < _FEWEST_REGULAR:
        return False
    between = populated.copy()
    between[: places[0]] = between[places[-1] + 1 :] = False
    low, high = places[0], places[-1]
    for steps in range(len(places) - 1, (high - low) // 2 + 1):
        for first, last in itertools.product(_SHIFTS, _SHIFTS):
            even = np.rint(np.linspace(low + first, high + last, steps + 1)).astype(int)
            could = even[between[even]]
            if chosen[could].sum() >= _REGULAR * max(len(could), len(places)):
                return True
    return False


def mean_shift(samples_THWC: Images, twins_THWC: Images) -> tuple[float, float]:
    """Mean of (sample - twin) over pixels whose twin is between the ends, and its error.

    The error is that over images, because pixels of one image are not independent.
    """
    low, high = _INNER
    inside = (twins_THWC >= low) & (twins_THWC <= high)
    change = np.where(inside, samples_THWC.astype(np.float64) - twins_THWC, 0).sum(axis=(1, 2, 3))
    count = inside.sum(axis=(1, 2, 3))
    mean = float(change.sum() / max(count.sum(), 1))
    apart = change - mean * count
    error = float(np.sqrt((apart**2).sum()) / max(count.sum(), 1))
    return mean, error


def probe_levels(material: Material) -> Outcome:
    """Whether pixels were truncated."""
    images, twins = material.images_MHWC, material.twins
    if images is None:
        return CannotTell(material.why_no("pixels"))
    levels = look_at_levels(images)
    seen = _seen_of(levels)
    real = material.reference.images_MHWC if material.reference else None
    several = levels.missing >= _FEWEST_MISSING
    if several and real is None and not levels.regular:
        seen += ", in no regular order, which drawings in few colours are in too"
    if several and (levels.regular if real is None else not _are_so(real, levels)):
        return Finding(
            "truncated uint8 (grey levels left out)",
            capped(ALARM + levels.missing),
            f"{seen}: pixels were converted once more, by truncating, or had fewer bits",
            "convert once, from float, by floor(x + 0.5); keep uint8 as it is afterwards",
        )
    if material.plan is not None:
        return _no_sign(levels, f"{seen}; the plan rounds by {material.plan.uint8_rule}")
    if twins is None:
        return CannotTell(
            f"{seen}; truncating makes a picture darker by half a level and leaves no other trace,"
            f" so it takes samples that are made again: {material.why_no('twins')}"
        )
    shift, error = mean_shift(twins.samples_THWC, twins.twins_THWC)
    z = -shift / float(np.hypot(error, _BETWEEN_SETS))
    seen += (
        f"; samples are {shift:+.2f} ± {error:.2f} levels brighter than the same made again"
        f" ({len(twins.twins_THWC)} of them)"
    )
    low, high = _SHIFT_EXACT if twins.fits[0].rms < _EQUAL else _SHIFT
    if z < ALARM or not low <= -shift <= high:
        apart = ", which truncating alone does not explain" if abs(z) >= ALARM else ""
        return _no_sign(levels, f"{seen}{apart}")
    return Finding(
        "truncated uint8",
        capped(z),
        f"pixels were rounded down where they should have been rounded: {seen}",
        "convert by floor(x + 0.5), clamped, and not by a cast alone",
    )


def _seen_of(levels: Levels) -> str:
    if not levels.populated:
        return "too few pixels lie between the ends to say which grey levels are left out"
    return (
        f"{levels.missing} of {levels.populated} grey levels are missing, {levels.odd:.1%} of"
        " pixels are odd"
    )


def _no_sign(levels: Levels, seen: str) -> Outcome:
    """Nothing was found, which without grey levels that could be missing is no answer."""
    return Clear(seen) if levels.populated else CannotTell(seen)


def _are_so(real_MHWC: Images, levels: Levels) -> bool:
    """Whether reference images leave out levels as well, so that this is how they are."""
    theirs = look_at_levels(real_MHWC)
    return theirs.missing * levels.populated > levels.missing * theirs.populated / 2
