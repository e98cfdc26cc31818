"""DPG-Bench's picture of a prompt: cells of equal size, left to right and top to bottom.

Legend: H, W of one cell.
"""

from collections.abc import Sequence

import numpy as np

from evalsuite.artifacts.images import Images
from evalsuite.errors import DataError, UsageError

CELLS = 4
_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(row, column) of each cell."""


def join_cells(images: Sequence[Images]) -> Images:
    """One picture uint8 [2H,2W,3] of four images uint8 [H,W,3].

    Raises:
        UsageError: another number of images, or they are of several sizes or not square: the
            published scorer cuts squares.
    """
    sizes = {image.shape for image in images}
    if len(images) != CELLS or len(sizes) != 1:
        raise UsageError(f"a grid needs {CELLS} images of one size, not {len(images)}: {sizes}")
    height, width, _ = images[0].shape
    if height != width:
        raise UsageError(f"images of {height}x{width}: DPG-Bench's scorer cuts square cells")
    top, bottom = np.concatenate(images[:2], axis=1), np.concatenate(images[2:], axis=1)
    return np.concatenate([top, bottom], axis=0)


def check_grid(size: tuple[int, int], resolution: int, name: str) -> None:
    """Raise DataError unless a picture of `size`, (H, W), is 2 x 2 cells of `resolution`."""
    side = 2 * resolution
    if size != (side, side):
        raise DataError(
            f"{name} of {size[0]}x{size[1]} has no 2 x 2 cells of {resolution}x{resolution}: give"
            " the side of one cell, and one grid for each prompt"
        )


def cut_cells(picture: Images, resolution: int, num_cells: int = CELLS) -> list[Images]:
    """The first cells of a grid, each uint8 [resolution,resolution,3].

    Args:
        picture: uint8 [H,W,3].
        resolution: side of one cell, not of the grid.
        num_cells: 1 to 4.

    Raises:
        DataError: the picture is not 2 x 2 cells of this size.
    """
    height, width, _ = picture.shape
    check_grid((height, width), resolution, "a grid")
    cells = []
    for row, column in _PLACES[:num_cells]:
        y, x = row * resolution, column * resolution
        cells.append(picture[y : y + resolution, x : x + resolution].copy())
    return cells
