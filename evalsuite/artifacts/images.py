"""Image shards: Parquet that Hugging Face `datasets` opens as images, or NPZ in ADM's layout.

Legend: N images, H height, W width, C channels.
"""

import hashlib
import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.receipts import Keep
from evalsuite.artifacts.storage import HashingWriter
from evalsuite.config import Plan
from evalsuite.errors import CorruptionError

Images = NDArray[np.uint8]
ShardFormat = Literal["parquet", "npz"]
Spread = Callable[[Callable[[Images], bytes], Iterable[Images]], Iterable[bytes]]
"""How images are encoded: `map`, one after the other, or the `map` of a pool of threads."""

GRID_PER_CLASS = 8
"""With `--images grid`, the first so many samples of each class are kept ..."""
GRID_CLASSES = 100
"""... of the first so many classes."""

UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    KeyError,
    NotImplementedError,
    struct.error,
    zlib.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
"""What Pillow, numpy and zipfile raise over files that are not what they should be."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES = {
    "sample_index": {"dtype": "int64", "_type": "Value"},
    "seed": {"dtype": "int64", "_type": "Value"},
    "label": {"dtype": "int64", "_type": "Value"},
    "pixel_sha256": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
}
_COLUMNS = [
    ("sample_index", pa.int64()),
    ("seed", pa.int64()),
    ("label", pa.int64()),
    ("pixel_sha256", pa.string()),
    ("image", _IMAGE),
]
_PROMPT = ("prompt", pa.string())


def _schema(*, prompts: bool) -> pa.Schema:
    """Columns of a shard; those of a text model end with the prompt."""
    features = {
        **_FEATURES,
        **({"prompt": {"dtype": "string", "_type": "Value"}} if prompts else {}),
    }
    return pa.schema(
        [*_COLUMNS, _PROMPT] if prompts else _COLUMNS,
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


class ImageRows(NamedTuple):
    """Consecutive samples with their pixels; the unit that flows from the sampler to a file."""

    start: int
    seeds: Sequence[int]
    labels: Sequence[int]
    images_NHWC: Images
    prompts: Sequence[str] | None = None
    """Of a text model, for people; a label is their number."""


def pixel_sha256(image_HWC: Images) -> str:
    """SHA-256 of the uint8 [H,W,3] bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(image_HWC).data).hexdigest()


def is_kept(keep: Keep, plan: Plan, sample_index: int) -> bool:
    """Whether `--images` keeps the pixels of this sample; a function of the plan and the index."""
    return keep == "all" or (keep == "grid" and is_in_grid(plan, sample_index))


def is_in_grid(plan: Plan, sample_index: int) -> bool:
    """Whether a sample is among the first of its class, or of all under random labels."""
    num_classes = len(plan.label_classes)
    if plan.labels.rule == "blocked":
        per_class = plan.labels.per_class or 1
        cycle, place = divmod(sample_index, per_class * num_classes)
        which, occurrence = divmod(place, per_class)
        return which < GRID_CLASSES and occurrence + cycle * per_class < GRID_PER_CLASS
    occurrence, which = divmod(sample_index, num_classes)
    return which < GRID_CLASSES and occurrence < GRID_PER_CLASS


def encode_png(image_HWC: Images) -> bytes:
    """Lossless PNG; a low compression level, because encoding must keep up with a GPU."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def grid_end(plan: Plan) -> int:
    """From this sample on none is in the grid."""
    per_class = plan.labels.per_class or 1
    cycles = -(-GRID_PER_CLASS // per_class)
    return len(plan.label_classes) * per_class * cycles


class ParquetImageWriter:
    """Writes batches of rows to one Parquet shard; pixels that are not kept are null."""

    suffix = "parquet"

    def __init__(self, target: HashingWriter, keep: Keep, plan: Plan, spread: Spread = map) -> None:
        self._keep, self._plan, self._spread = keep, plan, spread
        self._schema = _schema(prompts=plan.text is not None)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(target, mode="w"), self._schema, compression="none"
        )

    def write(self, rows: ImageRows, hashes: Sequence[str]) -> None:
        """Append one batch as one row group."""
        indices = range(rows.start, rows.start + len(rows.images_NHWC))
        kept = [index for index in indices if is_kept(self._keep, self._plan, index)]
        encoded = self._spread(encode_png, [rows.images_NHWC[i - rows.start] for i in kept])
        cells = {
            index: {"bytes": png, "path": f"{index:010d}.png"}
            for index, png in zip(kept, encoded, strict=True)
        }
        images = [cells.get(index) for index in indices]
        columns = [list(indices), list(rows.seeds), list(rows.labels), list(hashes), images]
        if self._plan.text is not None:
            columns.append(list(rows.prompts or ()))
        arrays = [pa.array(c, type=f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


class NpzImageWriter:
    """Writes one NPZ shard in ADM's layout: arr_0 uint8 NHWC, arr_1 labels, and `seeds`."""

    suffix = "npz"

    def __init__(self, target: HashingWriter, num_images: int, size: tuple[int, int]) -> None:
        self._zip = zipfile.ZipFile(target, mode="w", compression=zipfile.ZIP_STORED)
        self._member = self._zip.open(_member("arr_0.npy"), mode="w", force_zip64=True)
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, *size, 3)}
        np.lib.format.write_array_header_1_0(self._member, header)
        self._labels: list[int] = []
        self._seeds: list[int] = []
        self._missing = num_images

    def write(self, rows: ImageRows, hashes: Sequence[str]) -> None:  # noqa: ARG002 - they stand in the receipt
        """Append one batch."""
        self._member.write(np.ascontiguousarray(rows.images_NHWC).tobytes())
        self._labels.extend(rows.labels)
        self._seeds.extend(rows.seeds)
        self._missing -= len(rows.images_NHWC)

    def close(self) -> None:
        """Write the labels and the seeds.

        Raises:
            ValueError: fewer or more images were written than announced.
        """
        if self._missing:
            raise ValueError(f"{self._missing} images are missing from the NPZ")
        self._member.close()
        for name, values in (("arr_1.npy", self._labels), ("seeds.npy", self._seeds)):
            with self._zip.open(_member(name), mode="w") as member:
                np.lib.format.write_array(member, np.array(values, np.int64), allow_pickle=False)
        self._zip.close()


def _member(name: str) -> zipfile.ZipInfo:
    """A zip entry without the time of day, so that equal content gives equal bytes."""
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))


def read_parquet_shard(
    content: bytes, where: str, wanted: Container[int] | None = None
) -> Iterator[tuple[int, Images | None]]:
    """(sample_index, image or None when it was not kept) of a shard, of `wanted` samples alone.

    Raises:
        CorruptionError: the content is no shard, or an image does not match its pixel hash.
    """
    try:
        # no threads of Arrow's: one that still runs at the end of a process aborts it (exit 134)
        file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, use_threads=False).to_pylist():
                if wanted is None or row["sample_index"] in wanted:
                    yield row["sample_index"], decode_checked(row, where)
    except (pa.ArrowException, KeyError) as error:
        raise CorruptionError(f"{where} is not a Parquet image shard: {error}") from error


def parquet_indices(path: Path) -> NDArray[np.int64]:
    """The sample indices of a shard, without decoding an image.

    Raises:
        CorruptionError: the file is no Parquet shard of images.
    """
    try:
        column = pq.read_table(path, columns=["sample_index"], use_threads=False, pre_buffer=False)[
            "sample_index"
        ]
        indices: NDArray[np.int64] = column.to_numpy()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise CorruptionError(f"{path} is not a Parquet image shard: {error}") from error
    return indices


def read_npz_shard(
    content: bytes, start: int, where: str, wanted: Container[int] | None = None
) -> Iterator[tuple[int, Images | None]]:
    """(sample_index, image) of an NPZ shard that starts at `start`, of `wanted` samples alone."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for offset, image in enumerate(archive["arr_0"]):
                if wanted is None or start + offset in wanted:
                    yield start + offset, image
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptionError(f"{where} is not an NPZ image shard: {error}") from error


def decode_image(data: bytes) -> Images:
    """RGB uint8 [H,W,3] of an encoded image.

    Raises:
        one of UNREADABLE: the bytes are no image, a broken one, or one whose conversion to 8-bit
            RGB would change its pixels (16 bits, CMYK, transparency).
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "RGBA" or "transparency" in image.info:
            lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
            if lowest != 255:
                raise ValueError("it is transparent in places; flatten it first")
        elif image.mode not in {"1", "L", "P", "RGB"}:
            raise ValueError(f"its mode {image.mode} is not 8-bit grey or RGB; convert it first")
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError("it has several frames")
        return np.asarray(image.convert("RGB"))


def decode_checked(row: dict[str, object], where: str) -> Images | None:
    """The image of a shard's row, compared with its pixel hash; None when it was not kept.

    Raises:
        CorruptionError: it is no image, or not the recorded one.
    """
    cell = row["image"]
    if not isinstance(cell, dict):
        return None
    index = row["sample_index"]
    try:
        image = decode_image(cell["bytes"])
    except UNREADABLE as error:
        raise CorruptionError(f"{where}: sample {index} is not an image: {error}") from error
    if pixel_sha256(image) != row["pixel_sha256"]:
        raise CorruptionError(f"{where}: the pixels of sample {index} do not match their hash")
    return image
