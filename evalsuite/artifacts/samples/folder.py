"""Samples as a folder of PNG, JPEG or WebP files, flat or with a subfolder for each class.

Legend: N images, H height, W width, C channels.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.samples.base import SampleSet, stacked
from evalsuite.artifacts.samples.pictures import (
    PictureHeader,
    PictureReader,
    codec_of,
    kind_of,
)
from evalsuite.errors import DataError

_PROBED = 64


@dataclass(frozen=True)
class FolderReader:
    """Reads files of a folder in the order of `names`.

    Attributes:
        folder: where they lie.
        names: relative POSIX paths.
        size: (H, W) that every image has, after resizing.
        pictures: how they are decoded.
    """

    folder: Path
    names: tuple[str, ...]
    size: tuple[int, int]
    pictures: PictureReader

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """Images start..stop-1 in portions uint8 [n,H,W,3].

        Raises:
            DataError: a file is no image, is broken, has another size than the first, or is named
                .png and is none.
        """
        return stacked((self._image(name) for name in self.names[start:stop]), self.size)

    def _image(self, name: str) -> Images:
        path = self.folder / name
        data = read_file(path)
        image = self.pictures.decode(data, str(path))
        check_kind(path, data)
        if image.shape[:2] != self.size:
            raise DataError(
                mixed_sizes(str(path), (image.shape[0], image.shape[1]), self.names[0], self.size)
            )
        return image


def open_folder(
    names: Sequence[str], folder: Path, pictures: PictureReader | None = None
) -> SampleSet:
    """Image files below a folder, in the order of `names`.

    That order is the plain text order of relative paths, so 10.png comes before 2.png; Inception
    Score depends on it. When every file lies in one of several subfolders, one level deep, the
    labels are the places of the subfolders in sorted order. Headers of some files all over the
    folder are looked at here, those of the others when they are read. What is named .png must be
    PNG, so that the codec is what it is told to be; of other names the bytes alone count.

    Raises:
        DataError: a file is no image, sizes differ and no rule resizes them, or a file is named
            .png and is none.
    """
    pictures = pictures or PictureReader()
    first = _header(folder, names[0], pictures)
    step = max(1, len(names) // _PROBED)
    lossless = []
    for name in names[::step]:
        header = _header(folder, name, pictures)
        size = header.size
        lossless.append(header.lossless)
        if pictures.size_of(size) != pictures.size_of(first.size):
            raise DataError(mixed_sizes(str(folder / name), size, names[0], first.size))
    size = pictures.size_of(first.size)
    all_png = all(name.lower().endswith(".png") for name in names)
    reader = FolderReader(folder, tuple(names), size, pictures)
    return SampleSet(
        where=str(folder),
        num_images=len(names),
        size=size,
        labels_N=labels_of_subfolders(names),
        codec=codec_of(lossless, every=all_png or step == 1),
        read=reader.read,
        resize=pictures.applied,
        names=reader.names,
    )


def labels_of_subfolders(names: Sequence[str]) -> NDArray[np.int64] | None:
    """Labels when every file lies in one of at least two subfolders, one level deep."""
    parts = [name.split("/") for name in names]
    if any(len(part) != 2 for part in parts):
        return None
    classes = {name: label for label, name in enumerate(sorted({part[0] for part in parts}))}
    if len(classes) < 2:
        return None
    return np.array([classes[part[0]] for part in parts], dtype=np.int64)


def mixed_sizes(
    name: str, size: tuple[int, int], first_name: str, first_size: tuple[int, int]
) -> str:
    """The line that refuses images of two sizes."""
    return (
        f"{name} is {size[0]}x{size[1]} (height x width), but {first_name} is"
        f" {first_size[0]}x{first_size[1]}: all images must have one size; give a rule"
        " (`evaluate --resize adm-crop:256`, `references build --preprocess adm-crop --size 256`)"
        " if they are to be resized"
    )


def read_file(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        DataError: it cannot be read, or is a pipe or a device, which may never end.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError(f"cannot read {path}: it is a pipe or a device, not a file")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def check_kind(path: Path, data: bytes) -> None:
    """Raise DataError when what is named .png is none: what is lossy must not look lossless."""
    kind = kind_of(data)
    if path.suffix.lower() == ".png" and kind != "PNG":
        raise DataError(
            f"{path} is a {kind} picture, though it is named .png: rename it, because a lossy"
            " picture changes the numbers and is told beside them"
        )


def _header(folder: Path, name: str, pictures: PictureReader) -> PictureHeader:
    path = folder / name
    data = read_file(path)
    header = pictures.header(data, str(path))
    check_kind(path, data)
    return header
