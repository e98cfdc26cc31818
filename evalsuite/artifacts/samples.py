"""Samples that someone else made: an ADM-style NPZ, a folder of images, Parquet shards.

All give uint8 RGB images in a fixed order, in portions, without holding the whole set.
Legend: N images, H height, W width, C channels.
"""

import itertools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import (
    UNREADABLE,
    Images,
    decode_image,
    parquet_indices,
    read_parquet_shard,
)
from evalsuite.errors import CorruptionError, DataError

PORTION = 64
_LOSSLESS, _LOSSY = (".png",), (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class SampleSet:
    """Images in a fixed order.

    Attributes:
        where: for messages.
        num_images: N.
        size: (H, W), equal for all.
        labels_N: class labels, when the source has them.
        codec: `lossless`, `lossy` or None when unknown.
        portions: images 0..stop-1 in portions of uint8 [n,H,W,3].
    """

    where: str
    num_images: int
    size: tuple[int, int]
    labels_N: NDArray[np.int64] | None
    codec: str | None
    portions: Callable[[int], Iterator[Images]]


def open_samples(path: Path) -> SampleSet:
    """Open images at `path` by what it is.

    Raises:
        DataError: nothing there that can be read as images; the line says what was found.
    """
    if path.is_dir():
        names = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        shards = [p for p in names if p.suffix == ".parquet"]
        return open_parquet(shards, path) if shards else open_folder(names, path)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a run, an NPZ, a folder of images or Parquet")
    if path.suffix == ".npz":
        return open_npz(path)
    if path.suffix == ".parquet":
        return open_parquet([path], path)
    raise DataError(f"{path} is no run, NPZ, folder of images or Parquet file")


def open_npz(path: Path) -> SampleSet:
    """An NPZ with `arr_0` uint8 [N,H,W,3] and maybe labels in `arr_1`, streamed from the zip."""
    shape, has_labels = npz_image_shape(path)
    labels = read_npz_array(path, "arr_1") if has_labels else None
    if labels is not None and (labels.shape != shape[:1] or labels.dtype.kind not in "iu"):
        raise DataError(
            f"{path}: arr_1 must hold {shape[0]} whole-number labels, not {labels.shape}"
        )
    return SampleSet(
        where=str(path),
        num_images=shape[0],
        size=(shape[1], shape[2]),
        labels_N=None if labels is None else labels.astype(np.int64),
        codec=None,
        portions=lambda stop: _stream_npz(path, shape, stop),
    )


def npz_image_shape(path: Path) -> tuple[tuple[int, int, int, int], bool]:
    """Shape of `arr_0` and whether there is an `arr_1`.

    Raises:
        DataError: not an NPZ, no `arr_0`, or an `arr_0` that is not uint8 [N,H,W,3] in C order.
    """
    with _open_zip(path) as archive:
        members = archive.namelist()
        if "arr_0.npy" not in members:
            raise DataError(
                f"{path} has no arr_0 (images); it holds {', '.join(members) or 'nothing'}"
            )
        shape, fortran, dtype = _npy_header(archive, "arr_0.npy", path)
    if dtype.hasobject:
        raise DataError(f"{path}: arr_0 holds pickled objects, which are never loaded")
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran or 0 in shape:
        raise DataError(
            f"{path}: arr_0 must be uint8 of shape (N, H, W, 3) in C order, not {dtype} {shape}"
        )
    return (shape[0], shape[1], shape[2], 3), "arr_1.npy" in members


def read_npz_array(path: Path, name: str) -> NDArray[np.generic] | None:
    """One whole array of an NPZ, None when it is absent; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name] if name in archive.files else None
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot read {name}: {error}") from error


def open_folder(names: list[Path], folder: Path) -> SampleSet:
    """A folder of PNG, JPEG or WebP files of one size, in the order of their names."""
    files = [p for p in names if p.suffix.lower() in _LOSSLESS + _LOSSY]
    if not files:
        raise DataError(f"{folder} holds no PNG, JPEG or WebP images and no run")
    height, width, _ = _read_image(files[0]).shape
    lossless = all(p.suffix.lower() in _LOSSLESS for p in files)

    def portions(stop: int) -> Iterator[Images]:
        for start in range(0, stop, PORTION):
            images = [_read_image(p) for p in files[start : min(start + PORTION, stop)]]
            for file, image in zip(files[start:], images, strict=False):
                if image.shape != (height, width, 3):
                    raise DataError(
                        f"{file} is {image.shape[0]}x{image.shape[1]}, but {files[0].name} is"
                        f" {height}x{width}: all images must have one size"
                    )
            yield np.stack(images)

    codec = "lossless" if lossless else "lossy"
    return SampleSet(str(folder), len(files), (height, width), None, codec, portions)


def open_parquet(files: list[Path], where: Path) -> SampleSet:
    """Parquet shards as `generate` writes them, in the order of sample_index."""
    spans = sorted(
        (int(indices[0]), len(indices), file)
        for file in files
        if len(indices := parquet_indices(file))
    )
    _check_consecutive(spans)
    first = next(_shard_rows(spans[0][2]))[1] if spans else None
    if first is None:
        raise DataError(f"{where}: the Parquet shards keep no images (--images none or grid)")
    size = (first.shape[0], first.shape[1])
    shards = [file for _, _, file in spans]

    def portions(stop: int) -> Iterator[Images]:
        rows = (row for file in shards for row in _shard_rows(file))
        for index, image in itertools.islice(rows, stop):
            if image is None:
                raise DataError(f"{where}: the pixels of sample {index} were not kept")
            if image.shape[:2] != size:
                raise DataError(f"{where}: sample {index} is {image.shape[:2]}, not {size}")
            yield image[None]

    total = sum(count for _, count, _ in spans)
    return SampleSet(str(where), total, size, None, "lossless", portions)


def _check_consecutive(spans: list[tuple[int, int, Path]]) -> None:
    for (start, count, _), (following, _, file) in itertools.pairwise(spans):
        if following != start + count:
            raise DataError(
                f"{file} starts at sample {following}, but {start + count} comes next:"
                " shards are missing or overlap"
            )


def _shard_rows(file: Path) -> Iterator[tuple[int, Images | None]]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    yield from read_parquet_shard(content, str(file))


def _read_image(path: Path) -> Images:
    try:
        return decode_image(path.read_bytes())
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise DataError(
            f"{path} is not a readable NPZ (truncated or of another format): {error}"
        ) from error


def _npy_header(
    archive: zipfile.ZipFile, member: str, path: Path
) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    try:
        with archive.open(member) as raw:
            version = np.lib.format.read_magic(raw)
            if version == (1, 0):
                return np.lib.format.read_array_header_1_0(raw)
            return np.lib.format.read_array_header_2_0(raw)
    except UNREADABLE as error:
        raise DataError(f"{path}: {member} has no readable header: {error}") from error


def _stream_npz(path: Path, shape: tuple[int, int, int, int], stop: int) -> Iterator[Images]:
    image_bytes = shape[1] * shape[2] * shape[3]
    with _open_zip(path) as archive, archive.open("arr_0.npy") as raw:
        version = np.lib.format.read_magic(raw)
        if version == (1, 0):
            np.lib.format.read_array_header_1_0(raw)
        else:
            np.lib.format.read_array_header_2_0(raw)
        for start in range(0, stop, PORTION):
            count = min(PORTION, stop - start)
            try:
                data = raw.read(count * image_bytes)
            except UNREADABLE as error:
                raise DataError(f"{path}: broken near image {start}: {error}") from error
            if len(data) != count * image_bytes:
                raise CorruptionError(f"{path} is truncated near image {start} of {shape[0]}")
            yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])
