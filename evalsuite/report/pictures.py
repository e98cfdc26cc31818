"""Pictures for pages: data URIs of single images, and sheets with a row of images for each class.

Legend: H height, W width.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from evalsuite.artifacts.images import Images, encode_png

CRISP_SIDE = 64
"""Images up to this side are shown whole, with hard pixel edges; larger ones become thumbnails."""
_SIDES = (128, 96, 64, 48, 32)
"""Of thumbnails, the largest that stays within the bytes being taken."""
_GAP = 2
"""Pixels between the rows of a sheet, so that none shows at the edge of its neighbour."""


def is_crisp(size: tuple[int, int]) -> bool:
    """Whether images of (H, W) are shown whole."""
    return max(size) <= CRISP_SIDE


def data_uris(images: Sequence[Images], most_bytes: int) -> tuple[list[str], int | None]:
    """Data URIs of images uint8 [H,W,3], and the longest side of thumbnails.

    Args:
        images: of one size or of several.
        most_bytes: of all together before base64, as far as the smallest thumbnails allow.

    Returns:
        URIs, and None in place of a side where the images are shown whole.
    """
    if all(is_crisp(image.shape[:2]) for image in images):
        files = [encode_png(image) for image in images]
        if sum(map(len, files)) <= most_bytes:
            return [_data_uri("image/png", file) for file in files], None
    for side in _SIDES:
        files = [thumbnail(image, side) for image in images]
        if sum(map(len, files)) <= most_bytes:
            break
    return [_data_uri("image/jpeg", file) for file in files], side


def thumbnail(image_HWC: Images, side: int) -> bytes:
    """A JPEG whose longest side is at most `side`."""
    return _jpeg(Image.fromarray(reduced(image_HWC, side)))


def reduced(image_HWC: Images, side: int) -> Images:
    """The image with its longest side at most `side`."""
    picture = Image.fromarray(image_HWC)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


class Sheet:
    """Images in rows, written as one file of which a page shows a row at a time."""

    def __init__(self, size: tuple[int, int], num_rows: int, num_columns: int) -> None:
        """An empty sheet for images of (H, W)."""
        self.size, self.num_rows, self.num_columns = size, num_rows, num_columns
        height = num_rows * (size[0] + _GAP) - _GAP
        self._pixels_HWC = np.full((height, num_columns * size[1], 3), 255, np.uint8)

    def put(self, row: int, column: int, image_HWC: Images) -> None:
        """Set one image, which has the sheet's size."""
        (height, width), top = self.size, row * (self.size[0] + _GAP)
        left = column * width
        self._pixels_HWC[top : top + height, left : left + width] = image_HWC

    def place(self, row: int) -> str:
        """Where a row lies, as CSS `object-position` takes it: a share of what is cut off."""
        rest = self.num_rows - 1
        return f"{100 * row / rest if rest else 0:.4g}%"

    def encode(self) -> bytes:
        """A PNG of small images, else a JPEG."""
        if is_crisp(self.size):
            buffer = io.BytesIO()
            Image.fromarray(self._pixels_HWC).save(buffer, format="PNG", compress_level=6)
            return buffer.getvalue()
        return _jpeg(Image.fromarray(self._pixels_HWC))

    @property
    def suffix(self) -> str:
        """Of its file's name."""
        return "png" if is_crisp(self.size) else "jpg"


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
