"""Coloured shapes on a plain ground: their outlines, their palette and a classical detector.

What `jobs/shapes` draws and what the benchmark `shapes` looks for are the same few definitions. The
detector has learned nothing: every pixel is taken apart into ground and one colour of the palette,
what is mostly colour is cut into connected parts, and the outline that overlaps a part best names
it.

Legend: H height, W width, K colours, C channels.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evalsuite.artifacts.images import Images
from evalsuite.t2i.detections import Detection, Detections
from evalsuite.t2i.geneval import GenevalOptions

SHAPES = ("circle", "square", "triangle", "cross")
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "yellow": (245, 200, 30),
    "green": (30, 160, 70),
    "blue": (35, 80, 215),
    "purple": (160, 50, 200),
    "black": (20, 20, 24),
}
"""Names are GenEval's."""
GROUND = (232, 232, 228)
OPTIONS = GenevalOptions(threshold=0.6, counting_threshold=0.6)
"""Ragged edges may take so much; drawn pictures with noise of 25 grey levels keep 0.7 and more."""
SMALLEST = 12
"""Pixels; what is smaller is a speck."""
_SUPERSAMPLES = 8
_STRETCH = 1.25
"""A part whose one side is this much longer than the other is still as good as a square one."""
_ROOMS = tuple(itertools.product((0, 1), repeat=4))


class _Cover(NamedTuple):
    """Of each pixel the share that is colour, float64 [H,W], and which colour, int64 [H,W]."""

    share: NDArray[np.float64]
    color: NDArray[np.int64]


class _Fit(NamedTuple):
    """The best outline of a part: how well it overlaps, its name and its box (y1, x1, y2, x2)."""

    overlap: float
    shape: str
    box: tuple[int, int, int, int]


@lru_cache(maxsize=4096)
def outline(shape: str, height: int, width: int) -> NDArray[np.float64]:
    """Share of each pixel that a shape covers which fills a box: float64 [height,width], 0 to 1.

    Raises:
        ValueError: there is no such shape.
    """
    v, u = _places(height)[:, None], _places(width)[None]
    inside = {
        "circle": u**2 + v**2 <= 1,
        "square": (np.abs(u) <= 1) & (np.abs(v) <= 1),
        "triangle": np.abs(u) <= (v + 1) / 2,
        "cross": (np.abs(u) <= 1 / 3) | (np.abs(v) <= 1 / 3),
    }
    if shape not in inside:
        raise ValueError(f"no shape {shape}; known: {', '.join(SHAPES)}")
    parts = inside[shape].reshape(height, _SUPERSAMPLES, width, _SUPERSAMPLES)
    return np.asarray(parts.mean(axis=(1, 3)))


def known_picture() -> tuple[Images, dict[str, str]]:
    """A rendered picture with each shape once, uint8 [32,32,3], and the colour of each."""
    colors = dict(zip(SHAPES, PALETTE, strict=False))
    image = np.full((32, 32, 3), GROUND, dtype=np.float64)
    for (shape, color), (row, column) in zip(
        colors.items(), itertools.product((2, 18), repeat=2), strict=True
    ):
        cover_HW1 = outline(shape, 12, 12)[..., None]
        part = image[row : row + 12, column : column + 12]
        part[:] = part * (1 - cover_HW1) + np.array(PALETTE[color]) * cover_HW1
    return np.rint(image).astype(np.uint8), colors


class ShapeDetector:
    """Finds the shapes of `SHAPES` in the colours of `PALETTE` on `GROUND`; a `Detector`.

    An object's score is the overlap of the best outline with it (intersection over union of shares)
    times the share of its pixels that have its commonest colour; less where it is no square in its
    proportions. Drawn shapes have at least 0.9.
    """

    protocol: dict[str, Any] = {"kind": "shapes detector", "version": 1}  # noqa: RUF012

    def detect(self, images: Sequence[Images]) -> list[Detections]:
        """What is in each image, uint8 [H,W,3], from the top down."""
        return [Detections(tuple(_objects(image))) for image in images]


class ShapeColors:
    """The nearest colour of the palette to an object's median; a `ColorClassifier`."""

    def colors_of(
        self,
        image: Images,
        objects: Sequence[Detection],
        class_name: str,  # noqa: ARG002
    ) -> tuple[str, ...]:
        """The colour of each object of one image, uint8 [H,W,3]."""
        return tuple(_color_of(image, one) for one in objects)


def _color_of(image: Images, found: Detection) -> str:
    assert found.mask is not None
    inner = ndimage.binary_erosion(found.mask)
    median_C = np.median(image[inner if inner.any() else found.mask], axis=0)
    distances = {name: np.linalg.norm(median_C - color) for name, color in PALETTE.items()}
    return min(distances, key=lambda name: distances[name])


def _objects(image: Images) -> Iterator[Detection]:
    cover = _cover(image)
    parts, count = ndimage.label(cover.share > 0.5)
    for number in range(1, count + 1):
        mask = parts == number
        if mask.sum() < SMALLEST:
            continue
        around = ndimage.binary_dilation(mask, np.ones((3, 3), dtype=bool))
        fit = _best_fit(np.where(around & (mask | (parts == 0)), cover.share, 0), mask)
        y1, x1, y2, x2 = fit.box
        sides = sorted((y2 - y1, x2 - x1))
        purity = np.bincount(cover.color[mask]).max() / mask.sum()
        score = fit.overlap * float(purity) * min(1.0, _STRETCH * sides[0] / sides[1])
        yield Detection(fit.shape, (float(x1), float(y1), float(x2), float(y2)), score, mask)


def _cover(image: Images) -> _Cover:
    """Take each pixel apart into ground and the one colour that leaves the least of it over."""
    offset_HWC = image.astype(np.float64) - GROUND
    colors_KC = np.array(list(PALETTE.values()), dtype=np.float64) - GROUND
    share_HWK = np.clip(offset_HWC @ colors_KC.T / (colors_KC**2).sum(axis=1), 0, 1)
    rest_HWK = offset_HWC[:, :, None] - share_HWK[..., None] * colors_KC
    color_HW = np.linalg.norm(rest_HWK, axis=-1).argmin(axis=-1)
    share_HW = np.take_along_axis(share_HWK, color_HW[..., None], axis=-1)[..., 0]
    return _Cover(share_HW, color_HW)


def _best_fit(share: NDArray[np.float64], mask: NDArray[np.bool_]) -> _Fit:
    """Try every shape in the mask's box, with and without a pixel more at each of its sides."""
    rows, columns = ndimage.find_objects(mask.astype(np.int64))[0]
    boxes = {
        (
            max(rows.start - top, 0),
            max(columns.start - left, 0),
            min(rows.stop + bottom, mask.shape[0]),
            min(columns.stop + right, mask.shape[1]),
        )
        for top, left, bottom, right in _ROOMS
    }
    fits = (_Fit(_overlap(share, shape, b), shape, b) for b in sorted(boxes) for shape in SHAPES)
    return max(fits, key=lambda fit: fit.overlap)


def _overlap(share: NDArray[np.float64], shape: str, box: tuple[int, int, int, int]) -> float:
    """Intersection over union of what is there and a shape that fills the box."""
    y1, x1, y2, x2 = box
    wanted, inside = outline(shape, y2 - y1, x2 - x1), share[y1:y2, x1:x2]
    both = float(np.minimum(wanted, inside).sum())
    return both / (float(share.sum()) + float(wanted.sum()) - both)


def _places(side: int) -> NDArray[np.float64]:
    """Centres of the sub-pixels of a side, from -1 to 1."""
    count = side * _SUPERSAMPLES
    return np.asarray((np.arange(count) + 0.5) / count * 2 - 1)
