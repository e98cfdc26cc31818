"""Writing a reference from front to back: an NPZ in ADM's layout, and its features beside it.

Legend: N images, H height, W width, D pooled width, P spatial width, K classes.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.storage import HashingWriter, explained

_DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4")}


class ReferenceNpzWriter:
    """Images as they come, then whole arrays; equal content gives equal bytes."""

    def __init__(self, target: HashingWriter, images: tuple[int, int, int] | None) -> None:
        """Begin; `images` is (N, H, W) when pixels are kept."""
        self._zip = zipfile.ZipFile(target, mode="w", compression=zipfile.ZIP_STORED)
        self._member = None
        self._missing = 0
        if images is not None:
            self._member = self._zip.open(_entry("arr_0"), mode="w", force_zip64=True)
            header = {"descr": "|u1", "fortran_order": False, "shape": (*images, 3)}
            np.lib.format.write_array_header_1_0(self._member, header)
            self._missing = images[0]

    def add_images(self, images_NHWC: Images) -> None:
        """Append pixels, where they are kept."""
        if self._member is not None:
            self._member.write(np.ascontiguousarray(images_NHWC).data)
            self._missing -= len(images_NHWC)

    def close(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Write what belongs behind the images, and the end.

        Raises:
            ValueError: fewer or more images came than were announced.
        """
        if self._missing:
            raise ValueError(f"{self._missing} images are missing from the NPZ")
        if self._member is not None:
            self._member.close()
        for name, array in arrays.items():
            with self._zip.open(_entry(name), mode="w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        self._zip.close()


class FeatureFileWriter:
    """A feature shard that is filled by portions: the bytes that `encode_features` would give."""

    def __init__(self, path: Path, widths: dict[str, int], num_images: int) -> None:
        """Make the file; `widths` are those of `pool`, `spatial` and `probabilities`."""
        self._path = path
        self._starts: dict[str, int] = {}
        header, at = {}, 0
        # the order of safetensors itself: wide dtypes first, then by name
        for name in ("sample_index", *sorted(widths)):
            code = "I64" if name == "sample_index" else "F32"
            shape = [num_images] if name == "sample_index" else [num_images, widths[name]]
            end = at + int(np.prod(shape)) * _DTYPES[code].itemsize
            header[name] = {"dtype": code, "shape": shape, "data_offsets": [at, end]}
            self._starts[name], at = at, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._widths = widths
        self._count = 0
        with explained(path, "write"), path.open("xb") as raw:
            raw.write(len(text).to_bytes(8, "little") + text)
            raw.truncate(self._data + at)
        self._put("sample_index", 0, np.arange(num_images))

    def add(self, features: dict[str, NDArray[np.float32]]) -> None:
        """Append the rows of the next images."""
        for name, rows in features.items():
            self._put(name, self._count * self._widths[name], rows)
        self._count += len(features["pool"])

    def _put(self, name: str, first_value: int, values: NDArray[Any]) -> None:
        dtype = _DTYPES["I64" if name == "sample_index" else "F32"]
        with explained(self._path, "write"), self._path.open("r+b") as raw:
            raw.seek(self._data + self._starts[name] + first_value * dtype.itemsize)
            raw.write(values.astype(dtype, copy=False).tobytes())


def _entry(name: str) -> zipfile.ZipInfo:
    """A zip entry without the time of day."""
    return zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
