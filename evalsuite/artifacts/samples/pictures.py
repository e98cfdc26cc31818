"""One encoded picture to uint8 RGB, strictly: whatever would change its pixels is refused.

PNG, JPEG and WebP are told by their first bytes, not by a name. An EXIF orientation, a colour
profile and a gamma are ignored, as Pillow ignores them and as the usual evaluators do.
Legend: H height, W width, C channels.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from evalsuite.artifacts.images import UNREADABLE, Images
from evalsuite.artifacts.resizing import ResizeRule
from evalsuite.errors import DataError

MEGAPIXELS = 64
"""A larger picture is refused before it is decoded."""
_OPAQUE = {"RGBA", "LA", "PA"}
_EXACT = {"1", "L", "P"}
_DEEP = ("I", "F")
_NAMES = {
    "1": "black and white",
    "L": "greyscale",
    "P": "palette",
    "CMYK": "CMYK",
    "LA": "greyscale with alpha",
    "RGBA": "RGB with alpha",
    "PA": "palette with alpha",
}


class PictureHeader(NamedTuple):
    """What a picture says of itself before it is decoded."""

    size: tuple[int, int]
    """(H, W)."""
    mode: str
    """As Pillow names it."""
    lossless: bool | None
    """None where the header does not tell."""


@dataclass(frozen=True)
class PictureReader:
    """How pictures become arrays: with which rule, and whether other modes may become RGB.

    Attributes:
        rule: resizes each picture; None leaves its size.
        convert_rgb: black and white, greyscale, palette and opaque alpha become RGB, which is
            exact, and CMYK by Pillow's formula, as ADM's and DiT's loaders do it.
        may_convert: whether who reads has that choice; it is what an error says to do.
    """

    rule: ResizeRule | None = None
    convert_rgb: bool = False
    may_convert: bool = True

    @property
    def resize(self) -> str | None:
        """Canonical text of the rule, None when it changes nothing."""
        return None if self.rule is None or self.rule.size is None else self.rule.name

    @property
    def applied(self) -> str | None:
        """What pixels went through, for records: `convert-rgb`, the rule, or both."""
        parts = ["convert-rgb"] if self.convert_rgb else []
        return " ".join([*parts, *([self.resize] if self.resize else [])]) or None

    def header(self, data: bytes, where: str) -> PictureHeader:
        """Size and mode, without decoding.

        Raises:
            DataError: the bytes are no picture, or one that would be refused.
        """
        with self._opened(data, where) as image:
            return PictureHeader((image.height, image.width), image.mode, is_lossless(data))

    def decode(self, data: bytes, where: str) -> Images:
        """Pixels uint8 [H,W,3].

        Raises:
            DataError: the bytes are no picture, a broken one, or one that would be changed.
        """
        with self._opened(data, where) as image:
            try:
                image.load()
            except (*UNREADABLE, MemoryError, IndexError, TypeError) as error:
                raise DataError(f"{where} cannot be read as an image: {error}") from error
            rgb = self._rgb(image, where)
            return np.asarray(rgb) if self.rule is None else self.rule(rgb)

    def resized(self, images_NHWC: Images) -> Images:
        """Pixels that are already decoded, through the rule."""
        if self.resize is None or self.rule is None:
            return images_NHWC
        return np.stack([self.rule(Image.fromarray(image)) for image in images_NHWC])

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what comes out for a picture of (H, W)."""
        return size if self.rule is None else self.rule.size_of(size)

    def _opened(self, data: bytes, where: str) -> ImageFile.ImageFile:
        image = _parsed(data, where)
        _check_area(image.width, image.height, where)
        self._check_mode(image, where)
        return image

    def _check_mode(self, image: ImageFile.ImageFile, where: str) -> None:
        mode = image.mode
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{where} has several frames: give single pictures")
        if _is_deep(image):
            raise DataError(
                f"{where} has more than 8 bits for a channel: convert it to 8 bits yourself,"
                " because the way it is rounded changes the numbers"
            )
        if mode == "RGB" and "transparency" not in image.info:
            return
        if self.convert_rgb and (mode in _OPAQUE | _EXACT | {"CMYK", "RGB"}):
            return
        name = _NAMES.get(mode, f"of mode {mode}") if mode != "RGB" else "RGB with transparency"
        converts = self.may_convert and mode in {*_NAMES, "RGB"}
        help_ = "give --convert-rgb" if converts else "convert it to 8-bit RGB"
        raise DataError(f"{where} is {name} (mode {mode}), not RGB: {help_}, or leave it out")

    def _rgb(self, image: Image.Image, where: str) -> Image.Image:
        if image.mode == "RGB" and "transparency" not in image.info:
            return image
        if image.mode in _OPAQUE or "transparency" in image.info:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema()[0] != 255:
                raise DataError(
                    f"{where} is transparent in places: put it on a background yourself, because"
                    " the choice changes the numbers"
                )
        return image.convert("RGB")


def kind_of(data: bytes) -> str | None:
    """`PNG`, `JPEG` or `WebP` by the first bytes; None when they are none of these."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    return "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def is_lossless(data: bytes) -> bool | None:
    """Whether the encoding keeps pixels; None where the first bytes do not tell."""
    kind = kind_of(data)
    if kind == "WebP":
        return {b"VP8L": True, b"VP8 ": False}.get(data[12:16])
    return None if kind is None else kind == "PNG"


def codec_of(known: Iterable[bool | None], *, every: bool) -> str | None:
    """The codec of a set of pictures.

    Args:
        known: of some pictures what `is_lossless` gives.
        every: whether all are known, or the others are refused where they are not lossless.

    Returns:
        `lossy` when one is, `lossless` when all are, else None.
    """
    found = set(known)
    if False in found:
        return "lossy"
    return "lossless" if every and found == {True} else None


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a channel has more than 8 bits; Pillow opens 16-bit RGB as RGB and cuts it."""
    raw = image.tile[0].args if image.tile else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return image.mode.startswith(_DEEP) or (isinstance(raw, str) and ";16" in raw)


def _check_area(width: int, height: int, where: str) -> None:
    megapixels = width * height / 1e6
    if megapixels > MEGAPIXELS:
        raise DataError(
            f"{where} has {megapixels:.0f} megapixels ({width}x{height}), more than the"
            f" {MEGAPIXELS} that are read: shrink it or leave it out"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a WebP's canvas, for which its decoder takes memory when it is opened."""
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X":
        return (int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1)
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = int.from_bytes(body[6:8], "little"), int.from_bytes(body[8:10], "little")
    return (width & 0x3FFF, height & 0x3FFF)


def _parsed(data: bytes, where: str) -> ImageFile.ImageFile:
    """The plugin of the format itself: `Image.open` would warn of a large picture by itself."""
    try:
        kind = kind_of(data)
        if kind == "PNG":
            return PngImagePlugin.PngImageFile(io.BytesIO(data))
        if kind == "JPEG":
            return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        if kind == "WebP":
            _check_area(*_webp_size(data), where)
            return WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    except (*UNREADABLE, MemoryError, IndexError, TypeError) as error:
        raise DataError(f"{where} cannot be read as an image: {error}") from error
    raise DataError(
        f"{where} cannot be read as an image: "
        + ("it is empty" if not data else "it is no PNG, JPEG or WebP, whatever its name says")
    )
