"""Samples in ADM's NPZ layout: one file, or the NPZ shards of a run as one set.

Legend: N images, H height, W width, C channels.
"""

import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.samples.base import SampleSet, portion_of
from evalsuite.artifacts.samples.npz_faults import fault_of_images, missing_images
from evalsuite.artifacts.samples.pictures import PictureReader
from evalsuite.artifacts.samples.zip_arrays import (
    ZipArray,
    array_names,
    read_npz_array,
    zip_array,
)
from evalsuite.errors import DataError

_SHARD = re.compile(r"(?P<start>[0-9]{10})-(?P<stop>[0-9]{10})-.+\.npz")


@dataclass(frozen=True)
class NpzReader:
    """Reads images of consecutive arrays as if they were one."""

    arrays: tuple[ZipArray, ...]
    pictures: PictureReader

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """Images start..stop-1 in portions uint8 [n,H,W,3].

        Raises:
            DataError: a file cannot be read, is truncated or is damaged.
        """
        first = 0
        for array in self.arrays:
            count = array.shape[0]
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                yield from self._read_one(array, low, high)
            first += count

    def check_sums(self, unwanted: threading.Event) -> None:
        """Compare the checksums of all arrays, until `unwanted` is set.

        Raises:
            CorruptionError: the images are not the ones that were written.
        """
        for array in self.arrays:
            array.verify(unwanted)

    def _read_one(self, array: ZipArray, start: int, stop: int) -> Iterator[Images]:
        height, width = array.shape[1:3]
        image_bytes = height * width * 3
        step = portion_of((height, width)) * image_bytes
        for piece in array.stream(start * image_bytes, stop * image_bytes, step):
            yield self.pictures.resized(piece.reshape(-1, height, width, 3))


def open_npz(path: Path, pictures: PictureReader | None = None) -> SampleSet:
    """An NPZ with `arr_0` uint8 [N,H,W,3] and maybe labels in `arr_1`, streamed from the zip.

    A stored (uncompressed) array is read where it lies, from any image on; a compressed one is
    decompressed from its beginning. The checksum of `arr_0` is verified when all of it is read.

    Raises:
        DataError: there are no images in it, or not uint8 RGB ones; the line says how to mend it.
    """
    return _sample_set(path, [path], pictures)


def open_npz_files(
    files: Sequence[Path], folder: Path, pictures: PictureReader | None = None
) -> SampleSet:
    """The NPZ shards of a run (`0000000000-0000000064-….npz`) as one set; or a single NPZ.

    Raises:
        DataError: several files that are no such shards, or whose samples do not follow.
    """
    if len(files) == 1:
        return open_npz(files[0], pictures)
    spans = []
    for file in files:
        match = _SHARD.fullmatch(file.name)
        if match is None:
            raise DataError(
                f"{folder} holds {len(files)} NPZ files, and {file.name} is not named as a shard of"
                " a run: give one file, or join them with np.concatenate"
            )
        spans.append((int(match["start"]), int(match["stop"]), file))
    spans.sort()
    for (_, stop, _), (following, _, file) in itertools.pairwise(spans):
        if following != stop:
            raise DataError(
                f"{file} starts at sample {following}, but {stop} comes next: shards are missing"
                " or overlap; give the run itself if it has shards of several attempts"
            )
    for start, stop, file in spans:
        count = npz_image_shape(file)[0][0]
        if count != stop - start:
            raise DataError(f"{file} holds {count} images, but its name says {stop - start}")
    return _sample_set(folder, [file for _, _, file in spans], pictures)


def npz_image_shape(path: Path) -> tuple[tuple[int, int, int, int], bool]:
    """Shape of `arr_0` and whether there is an `arr_1`.

    Raises:
        DataError: not an NPZ, no `arr_0`, or an `arr_0` that is not uint8 [N,H,W,3] in C order.
    """
    shape = _image_array(path).shape
    return (shape[0], shape[1], shape[2], 3), "arr_1" in array_names(path)


def _sample_set(where: Path, files: list[Path], pictures: PictureReader | None) -> SampleSet:
    reader = NpzReader(tuple(_image_array(file) for file in files), pictures or PictureReader())
    sizes = {array.shape[1:3] for array in reader.arrays}
    if len(sizes) > 1:
        raise DataError(f"{where}: the shards hold images of {len(sizes)} sizes, not of one")
    height, width = sizes.pop()
    labels = [
        _labels(file, array.shape[0]) for file, array in zip(files, reader.arrays, strict=True)
    ]
    known = [label for label in labels if label is not None]
    resize = reader.pictures.resize
    return SampleSet(
        where=str(where),
        num_images=sum(array.shape[0] for array in reader.arrays),
        size=reader.pictures.size_of((height, width)),
        labels_N=np.concatenate(known) if len(known) == len(files) else None,
        codec=None,
        read=reader.read,
        resize=resize,
        random_access=all(array.stored_at is not None for array in reader.arrays),
        encoded=resize is not None,
        check_sums=reader.check_sums,
    )


def _image_array(path: Path) -> ZipArray:
    if "arr_0" not in array_names(path):
        raise DataError(missing_images(path))
    array = zip_array(path, "arr_0")
    fault = fault_of_images(array)
    if fault is not None:
        raise DataError(f"{path}: arr_0 {fault}")
    return array


def _labels(path: Path, num_images: int) -> NDArray[np.int64] | None:
    if "arr_1" not in array_names(path):
        return None
    labels = read_npz_array(path, "arr_1")
    if labels is None or labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        shape = None if labels is None else (str(labels.dtype), *labels.shape)
        raise DataError(f"{path}: arr_1 must hold {num_images} whole-number labels, not {shape}")
    return labels.astype(np.int64)
