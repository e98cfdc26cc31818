"""Samples in Parquet: shards as `generate` writes them, and files of other people's data sets.

Legend: N images, H height, W width, C channels.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images, pixel_sha256
from evalsuite.artifacts.samples.base import SampleSet, stacked
from evalsuite.artifacts.samples.folder import mixed_sizes
from evalsuite.artifacts.samples.pictures import (
    PictureReader,
    codec_of,
    is_lossless,
    kind_of,
)
from evalsuite.errors import CorruptionError, DataError

_INDEX, _HASH, _LABEL = "sample_index", "pixel_sha256", "label"
_ROWS = 32
_BUFFER_BYTES = 1 << 20


class ParquetPart(NamedTuple):
    """One file and how many rows each of its row groups has."""

    path: Path
    first_index: int
    rows: tuple[int, ...]


@dataclass
class _Cursor:
    """Where the last read ended, so that the next one need not begin a row group again."""

    group: tuple[Path, int]
    next_row: int
    rows: Iterator[dict[str, Any]]


@dataclass(frozen=True)
class ParquetReader:
    """Reads rows of consecutive Parquet files.

    Attributes:
        parts: the files in order.
        column: holds the encoded images.
        hashed: whether each row tells the hash of its pixels.
        first: (H, W) of the first image, before resizing.
        pictures: how they are decoded.
        where: for messages.
        lossless: whether all images are told to be, which each must be then.
    """

    parts: tuple[ParquetPart, ...]
    column: str
    hashed: bool
    first: tuple[int, int]
    pictures: PictureReader
    where: str
    lossless: bool = False
    _cursors: list[_Cursor] = field(default_factory=list, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay with the process that opened them."""
        return {**self.__dict__, "_cursors": []}

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """Images start..stop-1 in portions uint8 [n,H,W,3].

        Raises:
            DataError: an image is absent, broken, of another size, or lossy when all others before
                it were found lossless.
            CorruptionError: a file cannot be read, or pixels do not match their hash.
        """
        return stacked(self._images(start, stop), self.pictures.size_of(self.first))

    def _images(self, start: int, stop: int) -> Iterator[Images]:
        at = 0
        for part in self.parts:
            for group, count in enumerate(part.rows):
                low, high = max(start - at, 0), min(stop - at, count)
                if low < high:
                    for offset, row in enumerate(self._rows(part.path, group, low, high)):
                        yield self._image(row, part, at + low + offset)
                at += count

    def _rows(self, path: Path, group: int, low: int, high: int) -> Iterator[dict[str, Any]]:
        cursor = self._cursors.pop() if self._cursors else None
        if cursor is None or cursor.group != (path, group) or cursor.next_row > low:
            cursor = _Cursor((path, group), 0, _group_rows(path, group, self.columns))
        while cursor.next_row < high:
            row = next(cursor.rows)
            cursor.next_row += 1
            if cursor.next_row > low:
                yield row
        self._cursors.append(cursor)

    @property
    def columns(self) -> list[str]:
        """Columns that are needed."""
        return [self.column, _HASH] if self.hashed else [self.column]

    def _image(self, row: dict[str, Any], part: ParquetPart, index: int) -> Images:
        where = f"{part.path}: sample {self.parts[0].first_index + index}"
        image = self.decode(row, where)
        size, found = self.pictures.size_of(self.first), (image.shape[0], image.shape[1])
        if found != size:
            raise DataError(mixed_sizes(where, found, "the first one", size))
        return image

    def decode(self, row: dict[str, Any], where: str) -> Images:
        """Pixels of a row, checked against their hash before they are resized."""
        data = encoded_bytes(row[self.column], where)
        if self.lossless and kind_of(data) is not None and not is_lossless(data):  # None: no image
            raise DataError(
                f"{where} is a {kind_of(data)} picture, while the first ones of each file are"
                " lossless: keep lossy and lossless pictures apart, because that is told beside"
                " the numbers"
            )
        if not self.hashed:
            return self.pictures.decode(data, where)
        pixels = PictureReader().decode(data, where)
        if pixel_sha256(pixels) != row[_HASH]:
            raise CorruptionError(f"{where}: its pixels do not match their hash")
        resized: Images = self.pictures.resized(pixels[None])[0]
        return resized


def open_parquet(
    files: Sequence[Path], where: Path, pictures: PictureReader | None = None
) -> SampleSet:
    """Parquet shards of a run in the order of sample_index, or any Parquet files with images.

    Other people's files are read in the order of their paths, row by row; their images are a
    column of bytes, or a struct with `bytes` as the Hugging Face library `datasets` writes it.
    Whole numbers in a column `label` are the labels. Whether the codec is lossless is told by the
    first image of each file; where it is, a lossy image further on is refused when it is read.

    Raises:
        DataError: there are no images, or the shards do not follow.
        CorruptionError: a file is no Parquet.
    """
    schemas = [_schema(file) for file in files]
    own = all({_INDEX, _HASH} <= set(schema.names) for schema in schemas)
    parts = [_part(file, own=own) for file in files]
    parts = [part for part in parts if sum(part.rows)]
    if not parts:
        raise DataError(f"{where}: the Parquet files hold no row")
    if own:
        parts.sort(key=lambda part: part.first_index)
        _check_consecutive(parts)
    column = _image_column(schemas, where)
    pictures = pictures or PictureReader()
    headers = []
    for part in parts:
        row = next(_group_rows(part.path, _first_group(part), [column]))
        text = f"{part.path}: sample {part.first_index}"
        headers.append(pictures.header(encoded_bytes(row[column], text), text))
    first = headers[0].size
    codec = codec_of((header.lossless for header in headers), every=True)
    lossless = codec == "lossless"
    reader = ParquetReader(tuple(parts), column, own, first, pictures, str(where), lossless)
    return SampleSet(
        where=str(where),
        num_images=sum(sum(part.rows) for part in parts),
        size=pictures.size_of(first),
        labels_N=_labels(parts, schemas),
        codec=codec,
        read=reader.read,
        resize=pictures.applied,
    )


def encoded_bytes(cell: object, where: str) -> bytes:
    """The encoded image in a cell.

    Raises:
        DataError: there is none, or only the path of one.
    """
    if isinstance(cell, dict):
        path, cell = cell.get("path"), cell.get("bytes")
        if cell is None and path:
            raise DataError(f"{where} names the file {path} and holds no image: embed the images")
    if not isinstance(cell, bytes):
        raise DataError(
            f"{where}: the pixels were not kept (--images none or grid): run the same command with"
            " --images all"
        )
    return cell


def _check_consecutive(parts: Sequence[ParquetPart]) -> None:
    for before, part in itertools.pairwise(parts):
        due = before.first_index + sum(before.rows)
        if part.first_index != due:
            raise DataError(
                f"{part.path} starts at sample {part.first_index}, but {due} comes next:"
                " shards are missing or overlap"
            )


def _file(path: Path) -> pq.ParquetFile:
    """Without threads of Arrow's: one that still runs at the end of a process aborts it."""
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(f"{path} is not a Parquet image shard: {error}") from error


def _schema(path: Path) -> pa.Schema:
    with _file(path) as file:
        return file.schema_arrow


def _part(path: Path, *, own: bool) -> ParquetPart:
    with _file(path) as file:
        rows = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        indices = _column(file, path, _INDEX) if own and sum(rows) else np.zeros(1, np.int64)
    if own and (np.diff(indices) != 1).any():
        raise CorruptionError(f"{path}: its sample_index does not count up by one")
    return ParquetPart(path, int(indices[0]), rows)


def _column(file: pq.ParquetFile, path: Path, name: str) -> NDArray[np.int64]:
    try:
        column = file.read(columns=[name], use_threads=False)[name]
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(f"{path}: cannot read {name}: {error}") from error
    if column.null_count:
        raise DataError(f"{path}: {column.null_count} rows have no {name}")
    values: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return values


def _first_group(part: ParquetPart) -> int:
    return next(i for i, count in enumerate(part.rows) if count)


def _group_rows(path: Path, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    with _file(path) as file:
        try:
            for batch in file.iter_batches(
                batch_size=_ROWS, row_groups=[group], columns=columns, use_threads=False
            ):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise CorruptionError(f"{path} is damaged in row group {group}: {error}") from error


def _image_column(schemas: Sequence[pa.Schema], where: Path) -> str:
    if any(schema.names != schemas[0].names for schema in schemas):
        raise DataError(f"{where}: the Parquet files have different columns")
    found = [name for name in schemas[0].names if _holds_bytes(schemas[0].field(name).type)]
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else str(found[0])
    listed = ", ".join(f"{f.name} ({f.type})" for f in schemas[0])
    raise DataError(
        f"{where}: no column is known to hold images: name it `image`, of encoded bytes or of a"
        f" struct with `bytes`; there are {listed}"
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(parts: Sequence[ParquetPart], schemas: Sequence[pa.Schema]) -> NDArray[np.int64] | None:
    schema = schemas[0]
    if _LABEL not in schema.names or not pa.types.is_integer(schema.field(_LABEL).type):
        return None
    columns = []
    for part in parts:
        with _file(part.path) as file:
            columns.append(_column(file, part.path, _LABEL))
    return np.concatenate(columns)
