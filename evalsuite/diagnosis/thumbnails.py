"""Small stand-ins of images, for distances between pixels that cost nothing.

Legend: N images, H height, W width, C channels, D numbers of a thumbnail.
"""

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images


def thumbnails(images_NHWC: Images, side: int) -> NDArray[np.float64]:
    """Means over a grid of at most side x side cells: float64 [N, side * side * C]."""
    rows, columns = (_cuts(length, side) for length in images_NHWC.shape[1:3])
    parts = []
    for start in range(0, len(images_NHWC), 64):
        part = images_NHWC[start : start + 64].astype(np.float64)
        summed = np.add.reduceat(np.add.reduceat(part, rows[:-1], axis=1), columns[:-1], axis=2)
        parts.append(summed / (np.diff(rows)[:, None, None] * np.diff(columns)[:, None]))
    cells = np.concatenate(parts)
    return np.asarray(cells.reshape(len(cells), -1))


def _cuts(length: int, side: int) -> NDArray[np.int64]:
    """Where the cells of one axis begin, and its end."""
    return np.unique(np.linspace(0, length, min(side, length) + 1).round().astype(np.int64))
