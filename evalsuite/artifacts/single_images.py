"""Single images of a run, read where they lie: of a shard no more than one batch is held.

Of many images of a shard, `RunDirectory.find_images` reads the whole file once and compares it with
its receipt; here one image costs no whole shard, which may be a gigabyte in a store.
"""

import functools
import io
import struct
import zipfile
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.artifacts.images import Images, decode_checked, pixel_sha256
from evalsuite.artifacts.receipts import NO_END, RangeIndex, ReceiptHead, read_receipt
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import FileEntry, Storage
from evalsuite.artifacts.storage.base import REPAIR
from evalsuite.errors import CorruptionError, DataError, IncompleteError

_AHEAD_BYTES = 256 * 2**10
"""Read at once, so that a store is not asked for every few bytes."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_CELLS = ["sample_index", "pixel_sha256", "image"]


class SingleImages:
    """Finds and decodes images of a run by their sample index, each checked against its hash.

    It knows the shards that were committed when it was first asked.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._batch: tuple[str, pa.Table] | None = None

    @functools.cached_property
    def _shards(self) -> RangeIndex[ReceiptHead]:
        return RangeIndex(self._run.image_shards())

    def kept(self) -> list[int]:
        """Indices of samples whose pixels were kept, in order."""
        return self._run.kept_indices(self.stop, self._shards.touching(0, NO_END))

    @functools.cached_property
    def stop(self) -> int:
        """One past the last sample that was made; 0 of a run without any."""
        return max((head.stop for head in self._shards.touching(0, NO_END)), default=0)

    def read(self, sample_index: int) -> Images:
        """Pixels uint8 [H,W,3] of a sample.

        Raises:
            IncompleteError: its pixels were not kept, or it was not made.
            CorruptionError: the stored pixels are not the recorded ones.
        """
        head = self._shard_with(sample_index)
        if head is None:
            raise IncompleteError(
                f"{self._run.root} has no pixels of sample {sample_index}: `evalsuite sample` makes"
                " that image again, and the same `run` with `--images all` keeps every one"
            )
        file = head.files[0]
        if file.path.endswith(".npz"):
            return self._from_npz(head, sample_index)
        return self._from_parquet(file.entry, sample_index)

    def _shard_with(self, index: int) -> ReceiptHead | None:
        """A shard that keeps the pixels of a sample."""
        shards = self._shards.touching(index, index + 1)
        return next((head for head in shards if self._run.keeps(head, index)), None)

    def _from_parquet(self, entry: FileEntry, index: int) -> Images:
        where = str(self._run.storage.path(entry.path))
        try:
            row = self._row(entry, index)
        except (pa.ArrowException, KeyError) as error:
            raise CorruptionError(f"{where} is not a Parquet image shard: {error}") from error
        image = None if row is None else decode_checked(row, where)
        if image is None:
            raise CorruptionError(f"{where} lacks the pixels of sample {index}")
        return image

    def _row(self, entry: FileEntry, index: int) -> dict[str, object] | None:
        """The row of a sample; its batch stays in memory for the next question."""
        held = self._batch
        if held is None or held[0] != entry.path or index not in _indices(held[1]):
            raw = pa.PythonFile(_opened(self._run.storage, entry))
            file = pq.ParquetFile(raw, pre_buffer=False)
            group = _group_with(file, index)
            if group is None:
                return None
            table = file.read_row_group(group, columns=_CELLS, use_threads=False)
            held = self._batch = (entry.path, table)
        at = _indices(held[1]).index(index)
        row: dict[str, object] = held[1].slice(at, 1).to_pylist()[0]
        return row

    def _from_npz(self, head: ReceiptHead, index: int) -> Images:
        storage, entry = self._run.storage, head.files[0].entry
        where = str(storage.path(entry.path))
        try:
            image = _npz_image(_opened(storage, entry), index - head.start)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptionError(f"{where} is not an NPZ image shard: {error}") from error
        recorded = read_receipt(storage, head.name).pixel_sha256[index - head.start]
        if pixel_sha256(image) != recorded:
            raise CorruptionError(f"{where}: the pixels of sample {index} do not match their hash")
        return image


def stored_hashes(storage: Storage, entry: FileEntry) -> list[str]:
    """The pixel hashes that a Parquet shard holds, in order.

    Raises:
        CorruptionError: it is missing, of another size, or no shard of images.
    """
    try:
        file = pq.ParquetFile(pa.PythonFile(_opened(storage, entry)), pre_buffer=False)
        column = file.read(columns=["pixel_sha256"], use_threads=False)["pixel_sha256"]
    except (pa.ArrowException, KeyError) as error:
        where = storage.path(entry.path)
        raise CorruptionError(f"{where} is not a Parquet image shard: {error}") from error
    hashes: list[str] = column.to_pylist()
    return hashes


def _indices(table: pa.Table) -> list[int]:
    found: list[int] = table["sample_index"].to_pylist()
    return found


def _group_with(file: pq.ParquetFile, index: int) -> int | None:
    """The row group of a sample, told by the file's own statistics where it has them."""
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group).column(0).statistics
        if about is not None and about.has_min_max and not about.min <= index <= about.max:
            continue
        if index in _indices(file.read_row_group(group, ["sample_index"], use_threads=False)):
            return group
    return None


def _npz_image(raw: IO[bytes], place: int) -> Images:
    """Image `place` of `arr_0`, which is stored uncompressed and row by row."""
    with zipfile.ZipFile(raw) as archive:
        info = archive.getinfo("arr_0.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("arr_0 is compressed")
    raw.seek(info.header_offset)
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    raw.seek(info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes))
    np.lib.format.read_magic(raw)  # it was written by NpzImageWriter, in version 1.0
    (count, height, width, channels), is_fortran, dtype = np.lib.format.read_array_header_1_0(raw)
    if is_fortran or dtype != np.uint8 or not 0 <= place < count:
        raise ValueError("arr_0 is no array uint8 [N,H,W,3] with that image")
    size = height * width * channels
    raw.seek(raw.tell() + place * size)
    content = raw.read(size)
    if len(content) != size:
        raise EOFError("arr_0 ends early")
    return np.frombuffer(content, np.uint8).reshape(height, width, channels)


def _opened(storage: Storage, entry: FileEntry) -> IO[bytes]:
    """A committed file, to be read at any place.

    Raises:
        CorruptionError: it is missing, or of another size.
    """
    found = storage.size(entry.path)
    if found != entry.num_bytes:
        state = "is missing" if found is None else f"has {found} bytes, not {entry.num_bytes}"
        raise CorruptionError(f"{storage.path(entry.path)} {state}: {REPAIR}")
    return io.BufferedReader(_StoredFile(storage, entry), _AHEAD_BYTES)


class _StoredFile(io.RawIOBase):
    """A file of a storage, which gives parts of it."""

    def __init__(self, storage: Storage, entry: FileEntry) -> None:
        super().__init__()
        self._storage, self._entry, self._at = storage, entry, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.num_bytes}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, target: Any, /) -> int:  # noqa: ANN401 - any buffer
        """Fill a buffer as far as the file goes."""
        stop = min(self._at + len(target), self._entry.num_bytes)
        if stop <= self._at:
            return 0
        content = self._storage.part(self._entry.path, self._at, stop)
        if len(content) != stop - self._at:
            raise DataError(f"{self._storage.path(self._entry.path)} became shorter")
        target[: len(content)] = content
        self._at = stop
        return len(content)
