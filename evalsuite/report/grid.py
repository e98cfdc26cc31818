"""The grid of samples by class: which images it shows, and their data URIs."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from evalsuite.artifacts.images import GRID_PER_CLASS, Images, encode_png
from evalsuite.artifacts.receipts import ReceiptHead
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import Plan
from evalsuite.seeding import labels_of, seeds_of

GRID_CLASSES = 20
"""Rows of the grid of samples; more classes are counted, not shown."""
_SCAN_PIXELS = 2**28
"""Most pixels that are decoded to find samples of each class: 4,096 images of 256 x 256."""
_IMAGE_BYTES = 1_500_000
"""Most bytes of all images together, before base64."""
_CRISP_SIDE = 64
"""Images up to this side are shown whole, with hard pixel edges; larger ones become thumbnails."""
_THUMBNAIL_SIDES = (128, 96, 64, 48, 32)


class Thumbnail(NamedTuple):
    """One image of the grid and what it is."""

    uri: str
    text: str


class GridRow(NamedTuple):
    """The first kept samples of one class."""

    label: int
    name: str | None
    thumbnails: list[Thumbnail]


class Grid(NamedTuple):
    """Samples by class."""

    rows: list[GridRow]
    num_classes: int
    """Classes or prompts that labels are drawn from."""
    thumbnail_side: int | None
    """Longest side of JPEG thumbnails; None when the images are shown as they are."""


def sample_grid(run: RunDirectory, receipts: Sequence[ReceiptHead]) -> Grid:
    """The first samples of each class whose pixels were kept.

    Raises:
        CorruptionError: stored pixels are not the recorded ones.
    """
    plan, names = run.plan, run.manifest.prompts or run.manifest.class_names
    height, width = plan.size
    covered = max((receipt.stop for receipt in receipts), default=0)
    stop = min(covered, max(plan.batch_size, _SCAN_PIXELS // (height * width)))
    labels = labels_of(plan, 0, stop, run.manifest.file_labels)
    found: dict[int, list[tuple[int, Images]]] = {
        label: [] for label in sorted(set(labels))[:GRID_CLASSES]
    }
    for index, image in run.kept_images(stop):
        row = found.get(labels[index])
        if row is not None and len(row) < GRID_PER_CLASS:
            row.append((index, image))
            if all(len(images) == GRID_PER_CLASS for images in found.values()):
                break
    uris, side = data_uris([image for row in found.values() for _, image in row])
    rest = iter(uris)
    rows = []
    for label, row in found.items():
        name = names[label] if names is not None and label < len(names) else None
        cells = [Thumbnail(next(rest), _describe(plan, index, label, name)) for index, _ in row]
        rows += [GridRow(label, name, cells)] if cells else []
    return Grid(rows, len(plan.label_classes), side)


def _describe(plan: Plan, index: int, label: int, name: str | None) -> str:
    named = f" ({name})" if name is not None else ""
    kind = "prompt" if plan.text else "label"
    return f"sample {index}, {kind} {label}{named}, seed {seeds_of(plan, index, index + 1)[0]}"


def data_uris(
    images: Sequence[Images],
    sides: Sequence[int] = _THUMBNAIL_SIDES,
    most_bytes: int = _IMAGE_BYTES,
) -> tuple[list[str], int | None]:
    """Data URIs that stay within so many bytes, if a side lets them; and the side of thumbnails.

    Args:
        images: uint8 [H,W,3].
        sides: longest ones of thumbnails, the largest first.
        most_bytes: of all files together, before base64.
    """
    if max((max(image.shape[:2]) for image in images), default=0) <= _CRISP_SIDE:
        files = [encode_png(image) for image in images]
        if sum(map(len, files)) <= most_bytes:
            return [_data_uri("image/png", file) for file in files], None
    for side in sides:
        files = [_reduced(image, side) for image in images]
        if sum(map(len, files)) <= most_bytes:
            break
    return [_data_uri("image/jpeg", file) for file in files], side


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _reduced(image_HWC: Images, side: int) -> bytes:
    picture = Image.fromarray(image_HWC)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88, subsampling=0)
    return buffer.getvalue()
