"""Segments: immutable tables of a cache, whose names are the digests of their bytes.

Anyone may write one or remove one at any time; a reader that misses one only has more to read
elsewhere. A segment whose bytes are not what its name says is not read.
"""

import hashlib
import io
import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.artifacts.storage import Storage
from evalsuite.errors import StorageError

FORMAT = b"1"
_KEY = b"evalsuite"
_INDEX = re.compile(r"^segment-[0-9a-f]{64}\.index$")
_PIXELS = b"pixels"


def segment_names(storage: Storage, folder: str) -> list[str]:
    """Names of the tables in a folder of the cache; none when it cannot be read."""
    try:
        return [name for name in storage.names(folder, ".index") if _INDEX.match(name)]
    except StorageError:
        return []


def read_segment(storage: Storage, folder: str, name: str, shared: Collection[str]) -> pa.Table:
    """A table, or None when it is gone, damaged or of another format.

    Args:
        storage: where the cache lies.
        folder: folder of the table.
        name: of the table.
        shared: columns that come as dictionaries, because their values repeat.
    """
    content = _checked(storage, f"{folder}/{name}")
    if content is None:
        return None
    try:
        # not `read_table`: it reads with threads, each of which keeps memory of its own
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=list(shared))
        table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError):  # not Parquet, or of a later kind
        return None
    return table if (table.schema.metadata or {}).get(_KEY) == FORMAT else None


def write_segment(storage: Storage, folder: str, table: pa.Table, pixels: bytes = b"") -> str:
    """Write a table, and before it the bytes that it refers to; gives its name.

    Raises:
        StorageError: the store cannot be written.
    """
    metadata = {_KEY: FORMAT}
    if pixels:
        beside = f"segment-{hashlib.sha256(pixels).hexdigest()}.pixels"
        storage.replace(f"{folder}/{beside}", pixels)
        metadata[_PIXELS] = beside.encode()
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    content = buffer.getvalue()
    name = f"segment-{hashlib.sha256(content).hexdigest()}.index"
    storage.replace(f"{folder}/{name}", content)
    return name


def pixels_name(table: pa.Table) -> str | None:
    """Name of the file of pixel hashes that belongs to a table."""
    name: bytes | None = (table.schema.metadata or {}).get(_PIXELS)
    return name.decode() if name else None


def read_pixels(storage: Storage, folder: str, name: str) -> bytes | None:
    """The pixel hashes of a segment, 32 bytes each; None when they are gone or damaged."""
    return _checked(storage, f"{folder}/{name}")


def remove_segment(storage: Storage, folder: str, name: str, beside: str | None) -> None:
    """Remove a table and then what only it referred to."""
    storage.delete(f"{folder}/{name}")
    if beside is not None:
        storage.delete(f"{folder}/{beside}")


def _checked(storage: Storage, path: str) -> bytes | None:
    """The bytes of a file that is named by its digest; None when they are not there."""
    try:
        content = storage.read(path)
    except StorageError:
        return None
    digest = path.rpartition("/")[2].removeprefix("segment-").partition(".")[0]
    return content if hashlib.sha256(content).hexdigest() == digest else None
