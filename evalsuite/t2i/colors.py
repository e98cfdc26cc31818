"""GenEval's colours: the ten words, the sentences about them, the crops and the zero-shot choice.

Source: GenEval's published scorer, commit af4902f, and the zero-shot classifier that it uses.
Legend: K colours, T sentences of one colour, E embedding, N images, H height, W width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.artifacts.images import Images
from evalsuite.config import Frozen
from evalsuite.errors import DataError
from evalsuite.t2i.detections import Box, Detection

COLORS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
"""There is no word for grey, nor for "none of these": every object gets one of the ten."""
_LOGIT_SCALE = 100.0


class CropOptions(Frozen):
    """How an object is cut out before its colour is asked; part of the protocol."""

    background: tuple[int, int, int] | None = (153, 153, 153)
    """RGB of what lies outside the mask (#999); None leaves the image as it is."""
    crop: bool = True
    """Whether the image is cut to the box; else the whole image is shown."""


class ColorWeights(NamedTuple):
    """One direction for each colour: float32 [K,E], of length 1."""

    weights_KE: Tensor


def color_sentences(class_name: str) -> tuple[tuple[str, ...], ...]:
    """The sentences about each colour, in the order of COLORS; no article is repaired."""
    return tuple(
        (
            f"a photo of a {color} {class_name}",
            f"a photo of a {color}-colored {class_name}",
            f"a photo of a {color} object",
        )
        for color in COLORS
    )


def cut_out(image: Images, detection: Detection, options: CropOptions) -> Images:
    """The picture of one object, uint8 [h,w,3], as the classifier's transform receives it.

    Raises:
        DataError: the mask has another size than the image.
    """
    mask = detection.mask
    if options.background is not None and mask is not None:
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"a mask of {mask.shape} does not fit an image of {image.shape[:2]}: the detector"
                " must give masks of the image's size"
            )
        image = np.where(mask[..., None], image, np.array(options.background, dtype=np.uint8))
    return _cropped(image, detection.box) if options.crop else image


def _cropped(image: Images, box: Box) -> Images:
    """Edges rounded half to even, black outside the image, at least one pixel a side."""
    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    height, width = max(y2 - y1, 1), max(x2 - x1, 1)
    crop = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = max(y1, 0), max(x1, 0)
    part = image[top : max(y1 + height, 0), left : max(x1 + width, 0)]
    if part.size:
        crop[top - y1 : top - y1 + part.shape[0], left - x1 : left - x1 + part.shape[1]] = part
    return crop


def color_weights(sentences_KTE: Tensor) -> ColorWeights:
    """Directions of the colours: sentences are normalised, averaged, and normalised again."""
    unit_KTE = torch.nn.functional.normalize(sentences_KTE.float(), dim=-1)
    return ColorWeights(torch.nn.functional.normalize(unit_KTE.mean(dim=1), dim=-1))


def color_logits(images_NE: Tensor, weights: ColorWeights) -> Tensor:
    """100 times the cosine of each image with each colour: float32 [N,K]."""
    unit_NE = torch.nn.functional.normalize(images_NE.float(), dim=-1)
    return _LOGIT_SCALE * unit_NE @ weights.weights_KE.T


def named(logits_NK: Tensor) -> tuple[str, ...]:
    """The colour of each image.

    Raises:
        DataError: a logit is NaN.
    """
    if bool(logits_NK.isnan().any()):
        raise DataError("the colour classifier gave NaN: its weights are broken")
    return tuple(COLORS[int(i)] for i in logits_NK.argmax(dim=1))


def cut_out_all(
    image: Images, objects: Sequence[Detection], options: CropOptions
) -> list[NDArray[np.uint8]]:
    """`cut_out` of each object."""
    return [cut_out(image, one, options) for one in objects]
