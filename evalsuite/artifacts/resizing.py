"""Named rules that bring pictures to one size: each is a pure function of a picture's pixels.

Every rule works on an 8-bit RGB picture with Pillow's filters, which are antialiased when they
shrink, and gives uint8 [H,W,3]. Legend: H height, W width.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evalsuite.errors import UsageError, nearest

_RULE = re.compile(r"(?P<kind>[a-z-]+):(?P<size>[1-9][0-9]{0,4})(?::(?P<filter>[a-z]+))?")
_LARGEST = 8192
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class ResizeRule:
    """A rule by its canonical name; equal names give equal pixels.

    Attributes:
        name: `adm-crop:256`, `torchvision-crop:256`, `torchvision-crop:256:bicubic`, `bicubic:256`
            or `none`.
        kind: the part before the first colon.
        size: of the square that comes out; None with `none`.
        filter: `bilinear` or `bicubic`; with `none` unused.
    """

    name: str
    kind: str
    size: int | None
    filter: str

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Pixels uint8 [H,W,3] of an RGB picture.

        Raises:
            ValueError: the picture is not 8-bit RGB.
        """
        if image.mode != "RGB":
            raise ValueError(f"a {image.mode} picture must be made RGB before it is resized")
        return np.asarray(self._resized(image))

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what comes out for a picture of (H, W)."""
        return size if self.size is None else (self.size, self.size)

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.size is None:
            return image
        if self.kind == "adm-crop":
            return adm_crop(image, self.size)
        if self.kind == "torchvision-crop":
            return torchvision_crop(image, self.size, _FILTERS[self.filter])
        return image.resize((self.size, self.size), _FILTERS[self.filter])


def resize_rule(text: str) -> ResizeRule:
    """The rule that a text names; its `name` is the canonical text.

    Raises:
        UsageError: there is no such rule, or its size is none.
    """
    if text == "none":
        return ResizeRule("none", "none", None, "bicubic")
    match = _RULE.fullmatch(text)
    defaults = {"adm-crop": "bicubic", "torchvision-crop": "bilinear", "bicubic": "bicubic"}
    kind = match["kind"] if match else text.partition(":")[0]
    if kind not in defaults:
        raise UsageError(f"unknown resize rule {text!r}: {nearest(kind, [*defaults, 'none'])}")
    if match is None or int(match["size"]) > _LARGEST:
        raise UsageError(f"resize rule {text!r} needs a size of 1 to {_LARGEST}: {kind}:256")
    chosen = match["filter"] or defaults[kind]
    if chosen != defaults[kind] and (kind != "torchvision-crop" or chosen not in _FILTERS):
        raise UsageError(
            f"resize rule {text!r}: only torchvision-crop has a choice, bilinear or bicubic"
        )
    suffix = "" if chosen == defaults[kind] else f":{chosen}"
    return ResizeRule(f"{kind}:{match['size']}{suffix}", kind, int(match["size"]), chosen)


def adm_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre square that ADM, DiT and their successors train on.

    Halves with a box filter while the shorter side is at least twice `size`, brings the shorter
    side to `size` with a bicubic filter, and cuts out the centre; an odd remainder leaves the
    larger margin below and to the right. Source: openai/guided-diffusion,
    `guided_diffusion/image_datasets.py`, `center_crop_arr`.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def torchvision_crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """`Resize(size)` and `CenterCrop(size)` of torchvision as they treat a Pillow picture.

    The shorter side becomes `size`, the longer one is rounded down; a picture that has the size is
    left as it is. Margins are rounded half to even. On tensors torchvision's own kernels give
    other pixels, by up to some levels. Source: pytorch/vision, `transforms/functional.py`,
    `_compute_resized_output_size` and `center_crop`.
    """
    width, height = image.size
    shorter, longer = sorted(image.size)
    if shorter != size:
        long = int(size * longer / shorter)
        width, height = (size, long) if width <= height else (long, size)
        image = image.resize((width, height), resample)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))
