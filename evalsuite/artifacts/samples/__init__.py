"""Samples that someone else made: an NPZ, a folder of images, Parquet files.

All give uint8 RGB images in a fixed order, in portions from any place, without holding the whole
set, and can be sent to other processes.
"""

from pathlib import Path

from evalsuite.artifacts.resizing import resize_rule
from evalsuite.artifacts.samples.base import PORTION, SampleSet, portion_of
from evalsuite.artifacts.samples.folder import open_folder
from evalsuite.artifacts.samples.npz import npz_image_shape, open_npz, open_npz_files
from evalsuite.artifacts.samples.parquet import open_parquet
from evalsuite.artifacts.samples.pictures import PictureReader
from evalsuite.artifacts.samples.store_copy import local_samples
from evalsuite.artifacts.samples.walking import walk
from evalsuite.artifacts.samples.zip_arrays import read_npz_array
from evalsuite.errors import DataError

__all__ = [
    "PORTION",
    "PictureReader",
    "SampleSet",
    "local_samples",
    "npz_image_shape",
    "open_folder",
    "open_npz",
    "open_parquet",
    "open_samples",
    "portion_of",
    "read_npz_array",
]


def open_samples(path: Path, *, resize: str | None = None, convert_rgb: bool = False) -> SampleSet:
    """Open images at `path` by what it is.

    Args:
        path: an NPZ, a Parquet file, or a folder that holds images, NPZ shards or Parquet files.
        resize: a rule of `evalsuite.artifacts.resizing` that every image goes through.
        convert_rgb: let greyscale, palette, opaque and CMYK pictures become RGB.

    Raises:
        UsageError: there is no such rule.
        DataError: nothing there that can be read as images; the line says what was found.
    """
    pictures = PictureReader(resize_rule(resize) if resize is not None else None, convert_rgb)
    if path.is_dir():
        return _open_directory(path, pictures)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a run, an NPZ, a folder of images or Parquet")
    if path.suffix.lower() == ".npz":
        return open_npz(path, pictures)
    if path.suffix.lower() == ".parquet":
        return open_parquet([path], path, pictures)
    raise DataError(f"{path} is no run, NPZ, folder of images or Parquet file")


def _open_directory(path: Path, pictures: PictureReader) -> SampleSet:
    content = walk(path)
    counts = {
        "images": len(content.pictures),
        "NPZ files": len(content.npz),
        "Parquet files": len(content.parquet),
    }
    found = [_counted(count, kind) for kind, count in counts.items() if count]
    if len(found) > 1:
        raise DataError(f"{path} holds {' and '.join(found)}: give the one kind that is meant")
    if content.pictures:
        return open_folder(content.pictures, path, pictures)
    if content.npz:
        return open_npz_files([path / name for name in content.npz], path, pictures)
    if content.parquet:
        return open_parquet([path / name for name in content.parquet], path, pictures)
    others = f" ({_counted(content.num_others, 'other files')})" if content.num_others else ""
    raise DataError(f"{path} holds no PNG, JPEG or WebP images and no run{others}")


def _counted(count: int, plural: str) -> str:
    return f"{count:,} {plural if count != 1 else plural.removesuffix('s')}"
