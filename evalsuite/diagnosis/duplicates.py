"""Copies among samples: equal pixels, and pictures far nearer than neighbours are.

Legend: N images, H height, W width, C channels, D numbers of a thumbnail.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.diagnosis.findings import ALARM, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import Material
from evalsuite.diagnosis.thumbnails import thumbnails

_SIDE = 16
_BEYOND = 5
"""The distance to this neighbour is the yardstick: copies may come in groups of five."""
NEAR = 0.2
"""A copy is nearer than this share of the yardstick. In m dimensions 4 * 0.2^m of all images are
so by chance: of digits, whose m is about 9, one of half a million; of simpler pictures more, as of
reference images."""


_PER_PAIR = 18.0
"""Standard deviations of one exact copy: its distance, below a third of a level where neighbours
are some 25 apart, in the spread of logarithms of distances (0.25)."""
_PER_NEAR = 6.0
"""Of one that is nearer than a fifth."""
_SEVERAL = 5
"""Near pairs below which nothing is said where no reference images show how many are usual."""


def exact_copies(digests: Sequence[bytes | str]) -> tuple[int, tuple[int, int] | None]:
    """How many equal an earlier one, and the first such pair."""
    count = len(digests) - len(Counter(digests))
    seen: dict[bytes | str, int] = {}
    for place, digest in enumerate(digests):
        if digest in seen:
            return count, (seen[digest], place)
        seen[digest] = place
    return count, None


def near_copies(images_NHWC: Images) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Pairs that are far nearer than neighbours are, exact copies left out.

    Args:
        images_NHWC: uint8, all different.

    Returns:
        Places of images, the place of the copy of each, and the median distance to the yardstick
        in grey levels (root mean square over a thumbnail).
    """
    vectors_ND = thumbnails(images_NHWC, _SIDE)
    if len(vectors_ND) <= _BEYOND:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, 0.0
    vectors_ND = vectors_ND - vectors_ND.mean(axis=0)
    squares_N = (vectors_ND**2).sum(axis=1)
    nearest, yardsticks, places = [], [], []
    for start in range(0, len(vectors_ND), 512):
        rows = slice(start, start + 512)
        apart = squares_N[rows, None] + squares_N - 2 * vectors_ND[rows] @ vectors_ND.T
        apart[np.arange(len(apart)), np.arange(start, start + len(apart))] = np.inf
        places.append(apart.argmin(axis=1))
        few = np.partition(apart, _BEYOND - 1, axis=1)
        nearest.append(few.min(axis=1))
        yardsticks.append(few[:, _BEYOND - 1])
    width = vectors_ND.shape[1]
    near_N, far_N = (
        np.sqrt(np.maximum(np.concatenate(parts), 0) / width) for parts in (nearest, yardsticks)
    )
    rows_N = np.flatnonzero((near_N < NEAR * far_N) & (far_N > 0))
    return rows_N, np.concatenate(places)[rows_N], float(np.median(far_N))


def probe_duplicates(material: Material) -> Outcome:
    """Whether samples occur more than once, exactly or nearly."""
    exact, places = exact_copies(material.digests)
    count, rows = len(material.digests), material.rows_N
    usual = exact if exact and _are_real(material, exact / count) else 0
    if usual:
        exact, places = 0, None
    images, near, distance = material.images_MHWC, 0, 0.0
    expected: float | None = None
    if images is not None:
        near, near_places, distance = _near_pairs(images)
        if places is None:
            places, rows = near_places, material.image_rows_M
        real = material.reference.images_MHWC if material.reference else None
        if near and real is not None:
            expected = _near_pairs(real)[0] * (len(images) / len(real)) ** 2
    z = _beyond_usual(near, expected)
    if not exact and z < ALARM:
        few = f"; {near} pairs are near, {_usual(expected)}" if near else ""
        told = f"{usual} samples equal others, as often as reference images do"
        return Clear(
            f"{told if usual else f'the {count:,} samples differ'}; typical neighbours by"
            f" {distance:.1f} levels{few}"
        )
    assert places is not None
    first, second = (int(rows[place]) for place in places)
    strength = _PER_PAIR * np.sqrt(exact) + max(z, 0.0)
    parts = [f"{exact} equal an earlier one in every pixel"] if exact else []
    parts += [f"{near} pairs are nearer than a fifth of the distance of neighbours"] if near else []
    return Finding(
        "duplicates",
        capped(float(strength)),
        f"of {count:,} samples {' and '.join(parts)} (first: {first} and {second})",
        "look for a repeated seed: one generator for each sample, the same range on no two workers",
    )


def _beyond_usual(near: int, expected: float | None) -> float:
    """Standard deviations of near pairs beyond those among real images, None where unknown."""
    if not near or (expected is None and near < _SEVERAL):
        return 0.0
    usual = expected or 0.0
    return float((near - usual) / np.sqrt(usual + near / _PER_NEAR**2))


def _usual(expected: float | None) -> str:
    if expected is None:
        return f"of fewer than {_SEVERAL} nothing is said without reference images"
    return f"{expected:.1f} would be among real images"


def _near_pairs(images_NHWC: Images) -> tuple[int, tuple[int, int] | None, float]:
    """How many pairs of unequal images are near, the first of them, and the yardstick."""
    distinct = _distinct(images_NHWC)
    rows_N, copies_N, distance = near_copies(images_NHWC[distinct])
    if not len(rows_N):
        return 0, None, distance
    first = (int(distinct[rows_N[0]]), int(distinct[copies_N[0]]))
    return max(1, len(rows_N) // 2), first, distance


def _distinct(images_NHWC: Images) -> NDArray[np.int64]:
    """Places of images that equal no earlier one."""
    seen: dict[bytes, int] = {}
    for place, image in enumerate(images_NHWC):
        seen.setdefault(hashlib.sha256(np.ascontiguousarray(image).data).digest(), place)
    return np.array(sorted(seen.values()))


def _are_real(material: Material, share: float) -> bool:
    """Whether reference images repeat as often, so that this is how the data are."""
    real = material.reference.images_MHWC if material.reference else None
    return real is not None and (len(real) - len(_distinct(real))) / len(real) >= share
