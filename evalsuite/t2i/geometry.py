"""GenEval's geometry: overlap of boxes and the relation of one object to another.

Source: GenEval (Ghosh et al. 2023) and its published scorer, whose numbers these are, in float32.
"""

import numpy as np
from numpy.typing import NDArray

from evalsuite.t2i.detections import Box

RELATIONS = ("above", "below", "left of", "right of")
"""Sorted; two may hold at a diagonal."""
_NOWHERE = 1e-3
_HALF = 0.5


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union, both ends of a side counted as pixels, as upstream counts them."""
    area_a, area_b = _area(*a), _area(*b)
    both = _area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area_a + area_b - both
    return both / union if union else 0.0


def _area(x1: float, y1: float, x2: float, y2: float) -> float:
    return max(x2 - x1 + 1.0, 0.0) * max(y2 - y1 + 1.0, 0.0)


def relations_of(a: Box, b: Box, position_threshold: float) -> tuple[str, ...]:
    """Where `a` is with respect to `b`, sorted; empty when it is neither here nor there.

    The offset of the centres loses `position_threshold` times the two sizes on each axis, down to
    zero, and is then measured in lengths of the whole offset; y grows downward.
    """
    box_a, box_b = _corners(a), _corners(b)
    offset = box_a.mean(axis=0) - box_b.mean(axis=0)
    sizes = np.abs(box_a[1] - box_a[0]) + np.abs(box_b[1] - box_b[0])
    slack = np.float32(position_threshold) * sizes
    left_over = np.maximum(np.abs(offset) - slack, np.float32(0)) * np.sign(offset)
    if (np.abs(left_over) < np.float32(_NOWHERE)).all():
        return ()
    dx, dy = left_over / np.linalg.norm(offset)
    held = {
        "left of": dx < -_HALF,
        "right of": dx > _HALF,
        "above": dy < -_HALF,
        "below": dy > _HALF,
    }
    return tuple(name for name in RELATIONS if held[name])


def _corners(box: Box) -> NDArray[np.float32]:
    return np.array(box, dtype=np.float32).reshape(2, 2)
