"""Rows of the ledger's cache: what it keeps of a receipt, and how that is written as a table."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from pydantic import BaseModel

from evalsuite.artifacts.receipts import (
    Receipt,
    ReceiptFile,
    ReceiptHead,
    digest_of_pixels,
)
from evalsuite.artifacts.segments import pixels_name
from evalsuite.artifacts.storage import FileEntry, Stamp

M = TypeVar("M", bound=BaseModel)
Bytes = TypeVar("Bytes", bytes, memoryview)
HASH_BYTES = 32
SHARED = "shared"
_OWN = ("attempt_id", "files", "pixels_digest", "seconds", "energy_joules", "created_at")
"""Fields that differ from receipt to receipt; the others repeat and are kept once."""
_PLACED = ("start", "stop")
_COLUMNS = (
    ("name", pa.string()),
    ("num_bytes", pa.int64()),
    ("version", pa.string()),
    ("start", pa.int64()),
    ("stop", pa.int64()),
    (SHARED, pa.string()),
    ("own", pa.string()),
    ("digest", pa.string()),
    ("num_pixels", pa.int64()),
)
FIELDS = hashlib.sha256(",".join(sorted(ReceiptHead.model_fields)).encode()).hexdigest()[:16]
"""A cache that was made of receipts with other fields is not read."""

_NO_FIELDS: set[str] = set()
Key = tuple[str, int, str]
"""Name, size and version: equal for equal bytes only."""


class Told(NamedTuple):
    """What a receipt says of its files and pixels."""

    attempt_id: str
    files: tuple[FileEntry, ...]
    pixels_digest: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Row:
    """A committed shard: samples start..stop-1."""

    name: str
    """File name of the receipt."""
    start: int
    stop: int
    kept: str | None
    digest: str
    """SHA-256 over the pixel hashes that the receipt names, whatever it says itself."""
    num_pixels: int
    segment: "Segment | None"
    at: int
    """Place in `segment`."""
    built: ReceiptHead | None = None
    """Of a receipt that stands in no segment."""

    def head(self) -> ReceiptHead:
        """The receipt without its pixel hashes."""
        if self.built is not None:
            return self.built
        assert self.segment is not None
        return self.segment.head(self.at)

    def told(self) -> Told:
        """A part of `head`, at a fraction of its cost."""
        if self.segment is not None:
            return self.segment.told(self.at)
        head = self.head()
        files = tuple(file.entry for file in head.files)
        return Told(head.attempt_id, files, head.pixels_digest, head.created_at)


@dataclass(frozen=True, slots=True)
class Fresh:
    """A receipt that was just read and stands in no segment yet."""

    stamp: Stamp
    row: Row
    pixels: bytes | None
    """Its pixel hashes, 32 bytes each; None when they were let go."""


def fresh_row(name: str, stamp: Stamp, receipt: Receipt) -> Fresh:
    """What the cache keeps of a receipt."""
    fields = {key: getattr(receipt, key) for key in ReceiptHead.model_fields}
    hashes = receipt.pixel_sha256
    row = Row(
        name,
        receipt.start,
        receipt.stop,
        receipt.kept,
        digest_of_pixels(hashes) if hashes else "",
        len(hashes),
        None,
        0,
        ReceiptHead.model_construct(**fields),
    )
    return Fresh(stamp, row, bytes.fromhex("".join(hashes)))


def key_of(name: str, stamp: Stamp) -> Key:
    """What a row is found by."""
    return name, stamp.num_bytes, stamp.version


def table_of(rows: Sequence[Fresh]) -> pa.Table:
    """The table of a segment, without its pixel hashes."""
    columns: dict[str, list[Any]] = {name: [] for name, _ in _COLUMNS}
    for one in rows:
        head = one.row.head().model_dump(mode="json")
        own = {key: head.pop(key) for key in _OWN}
        placed = {key: head.pop(key) for key in _PLACED}
        values = {
            "name": one.row.name,
            "num_bytes": one.stamp.num_bytes,
            "version": one.stamp.version,
            **placed,
            SHARED: json.dumps({"fields": FIELDS, **head}, sort_keys=True),
            "own": json.dumps(own, separators=(",", ":")),
            "digest": one.row.digest,
            "num_pixels": one.row.num_pixels,
        }
        for key, value in values.items():
            columns[key].append(value)
    return pa.table(columns, schema=pa.schema(_COLUMNS))


class Segment:
    """One table of the cache in memory; receipts are built when they are asked for."""

    def __init__(self, name: str, table: pa.Table) -> None:
        """Take a table as `segments.read_segment` gives it.

        Raises:
            KeyError: it has other columns.
        """
        self.name = name
        self.pixels_name = pixels_name(table)
        columns = {key: table[key] for key, _ in _COLUMNS}
        names, sizes, versions = (columns[key].to_pylist() for key, _ in _COLUMNS[:3])
        self.keys: list[Key] = list(zip(names, sizes, versions, strict=True))
        self._starts, self._stops = columns["start"].to_pylist(), columns["stop"].to_pylist()
        self._own, self._digests = columns["own"].to_pylist(), columns["digest"].to_pylist()
        shared = columns[SHARED].dictionary_encode().combine_chunks()
        if isinstance(shared, pa.ChunkedArray):
            shared = pa.concat_arrays(shared.chunks)
        self._shared: list[dict[str, Any]] = [json.loads(t) for t in shared.dictionary.to_pylist()]
        self._is_ours = [fields.pop("fields", None) == FIELDS for fields in self._shared]
        self._which: list[int] = shared.indices.to_pylist()
        counts = columns["num_pixels"].to_pylist()
        self.ends: list[int] = list(itertools.accumulate(counts))
        self.num_pixels: list[int] = counts

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, at: int, plan_id: str) -> Row | None:
        """One row; None when it is of another plan, or of a receipt with other fields."""
        shared = self._shared[self._which[at]]
        if not self._is_ours[self._which[at]] or shared["plan_id"] != plan_id:
            return None
        return Row(
            self.keys[at][0],
            self._starts[at],
            self._stops[at],
            shared["kept"],
            self._digests[at],
            self.num_pixels[at],
            self,
            at,
        )

    def head(self, at: int) -> ReceiptHead:
        """The receipt of one row, without its pixel hashes."""
        own = json.loads(self._own[at])
        own["files"] = tuple(_built(ReceiptFile, file) for file in own["files"])
        placed = {"start": self._starts[at], "stop": self._stops[at]}
        return _built(ReceiptHead, {**self._shared[self._which[at]], **placed, **own})

    def told(self, at: int) -> Told:
        """What the receipt of one row says of its files and pixels."""
        own = json.loads(self._own[at])
        files = tuple(FileEntry(f["path"], f["num_bytes"], f["sha256"]) for f in own["files"])
        return Told(own["attempt_id"], files, own["pixels_digest"], own["created_at"])

    def pixels_of(self, at: int, pixels: Bytes) -> Bytes:
        """The hashes of one row among those of all, 32 bytes each."""
        end = self.ends[at]
        return pixels[HASH_BYTES * (end - self.num_pixels[at]) : HASH_BYTES * end]


def _built(model: type[M], values: dict[str, Any]) -> M:
    """As `model_construct` of all fields, in a third of its time: there are 100,000 of them."""
    one = model.__new__(model)
    state = {"__pydantic_extra__": None, "__pydantic_private__": None}
    one.__setstate__({"__dict__": values, "__pydantic_fields_set__": _NO_FIELDS, **state})
    return one
