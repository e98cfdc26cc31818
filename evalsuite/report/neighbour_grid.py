"""A picture of samples beside the reference images that are nearest to them.

Legend: N samples, Q neighbours, H height, W width.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from evalsuite.artifacts.images import Images
from evalsuite.errors import DataError

_LEAST = 64
"""Smaller pictures are enlarged, whole numbers of times, so that one sees them."""
_GAP, _WIDE_GAP = 2, 12
"""White pixels between pictures, and between a sample and its neighbours."""
_WHITE = 255
_MOST_MEGAPIXELS = 200
"""A larger picture is refused: few programs open it."""


def neighbour_grid(samples_NHWC: Images, neighbours: Sequence[Images]) -> bytes:
    """A PNG with a row for each sample: the sample at the left, its neighbours by distance.

    Neighbours of another size than the sample are resized to it, for the eye alone.

    Args:
        samples_NHWC: uint8 [N,H,W,3].
        neighbours: for each sample uint8 [Q,h,w,3].

    Raises:
        DataError: the picture would be too large.
    """
    height, width = samples_NHWC.shape[1:3]
    zoom = max(1, -(-_LEAST // min(height, width)))
    num_columns = 1 + len(neighbours[0])
    total = len(samples_NHWC) * num_columns * height * width * zoom**2 / 1e6
    if total > _MOST_MEGAPIXELS:
        raise DataError(
            f"{len(samples_NHWC)} rows of {num_columns} pictures make {total:.0f} megapixels: give"
            " a folder as --output, for one picture a sample, or choose fewer"
        )
    rows = [
        _row(_shown(sample[None], (height, width), zoom)[0], _shown(near, (height, width), zoom))
        for sample, near in zip(samples_NHWC, neighbours, strict=True)
    ]
    gap = np.full((_GAP, rows[0].shape[1], 3), _WHITE, np.uint8)
    pieces = [piece for row in rows for piece in (row, gap)][:-1]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(pieces)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _row(sample_HWC: Images, near_QHWC: Images) -> Images:
    pieces = [sample_HWC]
    for place, image_HWC in enumerate(near_QHWC):
        gap = _GAP if place else _WIDE_GAP
        pieces += [np.full((len(sample_HWC), gap, 3), _WHITE, np.uint8), image_HWC]
    return np.concatenate(pieces, axis=1)


def _shown(images_NHWC: Images, size: tuple[int, int], zoom: int) -> Images:
    """Pictures at (H, W), each pixel `zoom` times as wide and as high."""
    if images_NHWC.shape[1:3] != size:
        resized = (
            Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
            for image in images_NHWC
        )
        images_NHWC = np.stack([np.asarray(image) for image in resized])
    return images_NHWC.repeat(zoom, axis=1).repeat(zoom, axis=2)
