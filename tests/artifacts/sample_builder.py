"""Builders of small samples of every kind, and the line that refuses bad ones."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_builder import make_plan, pictures
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.images import (
    ImageRows,
    Keep,
    NpzImageWriter,
    ParquetImageWriter,
    pixel_sha256,
)
from evalsuite.artifacts.samples import PORTION, SampleSet, open_samples
from evalsuite.artifacts.storage import HashingWriter
from evalsuite.errors import DataError

COUNT = 2 * PORTION + 3
PICTURES = pictures(COUNT)
LABELS = [i % 3 for i in range(COUNT)]


def images_of(samples: SampleSet, start: int, stop: int) -> NDArray[np.uint8]:
    """All portions of a range, joined."""
    return np.concatenate(list(samples.read(start, stop)))


def line_of(path: Path, **options: Any) -> str:
    """The line that refuses `path`, when it is opened or when it is read."""

    def attempt() -> None:
        samples = open_samples(path, **options)
        images_of(samples, 0, samples.num_images)

    with pytest.raises(DataError) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def write_parquet(path: Path, start: int, stop: int, keep: Keep = "all", batch: int = 8) -> None:
    """A shard as `generate` writes it, a row group for each batch."""
    buffer = io.BytesIO()
    plan = make_plan(num_classes=3)
    writer = ParquetImageWriter(HashingWriter(buffer, Path("memory")), keep, plan)
    for low in range(start, max(stop, start + 1), batch):
        images = PICTURES[low : min(low + batch, stop)]
        labels = LABELS[low : low + len(images)]
        rows = ImageRows(low, [0] * len(images), labels, images)
        writer.write(rows, [pixel_sha256(i) for i in images])
    writer.close()
    path.write_bytes(buffer.getvalue())


def write_npz_shard(folder: Path, start: int, stop: int, attempt: str = "a0") -> Path:
    """An NPZ shard as `generate` writes and names it."""
    path = folder / f"{start:010d}-{stop:010d}-{attempt}.npz"
    with path.open("wb") as raw:
        writer = NpzImageWriter(HashingWriter(raw, path), stop - start, (5, 7))
        images = PICTURES[start:stop]
        writer.write(ImageRows(start, [0] * len(images), LABELS[start:stop], images), ())
        writer.close()
    return path


def write_folder(folder: Path, count: int = 5, suffix: str = "png") -> Path:
    """Images named so that their names order them."""
    folder.mkdir(exist_ok=True, parents=True)
    for i in range(count):
        Image.fromarray(PICTURES[i]).save(folder / f"{i:03d}.{suffix}")
    return folder


def png_bytes(width: int, height: int, depth: int, colour: int, data: bytes = b"") -> bytes:
    """A PNG by hand, of any depth and colour type, its pixels zero unless `data` is given."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * channels * depth + 7) // 8)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", data or zlib.compress(row * height)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
