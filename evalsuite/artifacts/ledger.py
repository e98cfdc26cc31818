"""The ledger of a run: which shards are committed, without opening every receipt each time.

One listing of the receipts says what exists. What a receipt says is taken from a cache below
`ledger/`, found by its name, size and version, and read where the cache has not got it. Whoever has
read many writes them into the cache. It may be removed at any time, by anyone.
"""

import collections
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from evalsuite.artifacts import segments
from evalsuite.artifacts.ledger_rows import (
    HASH_BYTES,
    SHARED,
    Fresh,
    Key,
    Row,
    Segment,
    fresh_row,
    key_of,
    table_of,
)
from evalsuite.artifacts.merging import merge_small
from evalsuite.artifacts.receipts import (
    RangeIndex,
    ReceiptHead,
    cover,
    digest_of_pixels,
    is_receipt_name,
    range_of,
    read_own_receipt,
)
from evalsuite.artifacts.storage import Stamp, Storage
from evalsuite.errors import CorruptionError, StorageError

COMPACT_AFTER = 256
"""Receipts that stand in no segment before one is written."""
LARGE_SEGMENT = 4096
"""Rows of a segment that is left alone from then on."""
SETTLED_NS = 5 * 10**9
"""A file that changed so recently might change again within one tick of the file system's clock."""
_FEW = 4  # receipts that are read sooner than segments are looked for
_READERS = 16
_HELD_PIXELS = 2  # files of pixel hashes in memory


class Reading(NamedTuple):
    """What became of reading one receipt."""

    name: str
    stamp: Stamp
    row: Row | None
    error: CorruptionError | None


class Span(NamedTuple):
    """Samples start..stop-1 of a committed shard, and which of their pixels it keeps."""

    start: int
    stop: int
    kept: str | None


@dataclass
class _Stage:
    """What this process knows of one stage."""

    known: set[str] = field(default_factory=set)
    """Names of segments that were loaded."""
    segments: list[Segment] = field(default_factory=list)
    rows: dict[Key, Row] = field(default_factory=dict)
    """Of segments."""
    fresh: dict[Key, Fresh] = field(default_factory=dict)


class Ledger:
    """Reads the receipts of one plan. Several threads may use it."""

    def __init__(self, storage: Storage, plan_id: str) -> None:
        self._storage, self._plan_id = storage, plan_id
        self._stages: dict[str, _Stage] = collections.defaultdict(_Stage)
        self._pixels: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._lock = threading.RLock()
        self._may_write = True

    def spans(self, stage: str, start: int = 0, stop: int | None = None) -> list[Span]:
        """Ranges of the committed shards that touch start..stop-1, in order.

        Raises:
            CorruptionError: a receipt cannot be read or belongs to another plan.
        """
        return [Span(row.start, row.stop, row.kept) for row in self.rows(stage, start, stop)]

    def heads(self, stage: str, start: int = 0, stop: int | None = None) -> list[ReceiptHead]:
        """Receipts, without pixel hashes, of the shards that touch start..stop-1, in order.

        Raises:
            CorruptionError: a receipt cannot be read or belongs to another plan.
        """
        return [row.head() for row in self.rows(stage, start, stop)]

    def readable(self, stage: str) -> tuple[list[ReceiptHead], list[str]]:
        """As `heads`, and in one line each what is wrong with receipts that cannot be used."""
        readings = self.readings(stage)
        heads = [one.row.head() for one in readings if one.row is not None]
        return heads, [str(one.error) for one in readings if one.error is not None]

    def rows(self, stage: str, start: int = 0, stop: int | None = None) -> list[Row]:
        """As `heads`, in the form that costs least.

        Raises:
            CorruptionError: a receipt cannot be read or belongs to another plan.
        """
        rows = []
        for reading in self.readings(stage, start, stop):
            if reading.error is not None:
                raise reading.error
            if reading.row is not None:
                rows.append(reading.row)
        return rows

    def readings(self, stage: str, start: int = 0, stop: int | None = None) -> list[Reading]:
        """Each receipt that touches start..stop-1, or why it cannot be used; in order.

        Files whose names are no receipt's are passed over.
        """
        with self._lock:
            stamps = self._storage.stamps(f"receipts/{stage}", ".json")
            listing = {name: stamp for name, stamp in stamps.items() if is_receipt_name(name)}
            self._look_up(stage, listing)
            found: dict[str, Reading] = {}
            unread: dict[str, Stamp] = {}
            for name, stamp in listing.items():
                row = self._find(stage, key_of(name, stamp))
                low, high = (row.start, row.stop) if row is not None else range_of(name)
                if start < high and (stop is None or low < stop):
                    found[name] = Reading(name, stamp, row, None)
                    if row is None:
                        unread[name] = stamp
            self._read(stage, unread, found, listing)
            return [found[name] for name in listing if name in found]

    def pixels_digest(self, images: RangeIndex[Row], start: int, stop: int) -> str | None:
        """Digest of the pixel hashes of samples start..stop-1; None when one is missing."""
        parts = cover(images.touching(start, stop), start, stop)
        if len(parts) == 1 and (parts[0].receipt.start, parts[0].receipt.stop) == (start, stop):
            row = parts[0].receipt
            return row.digest if row.num_pixels == stop - start else None
        hashes = b""
        for part in parts:
            low, high = part.start - part.receipt.start, part.stop - part.receipt.start
            hashes += self._hashes(part.receipt)[HASH_BYTES * low : HASH_BYTES * high]
        whole = [hashes[at : at + HASH_BYTES].hex() for at in range(0, len(hashes), HASH_BYTES)]
        return digest_of_pixels(whole) if len(whole) == stop - start else None

    def _find(self, stage: str, key: Key) -> Row | None:
        held = self._stages[stage]
        fresh = held.fresh.get(key)
        return fresh.row if fresh is not None else held.rows.get(key)

    def _look_up(self, stage: str, listing: Mapping[str, Stamp]) -> None:
        """Load segments when there are names that this process does not know."""
        held = self._stages[stage]
        wanted = {key_of(name, stamp) for name, stamp in listing.items()}
        held.fresh = {key: one for key, one in held.fresh.items() if key in wanted}
        unknown = len(wanted) - len(held.fresh) - sum(key in held.rows for key in wanted)
        if unknown <= _FEW:
            return
        folder = _folder(stage)
        for name in segments.segment_names(self._storage, folder):
            if name not in held.known:
                held.known.add(name)
                table = segments.read_segment(self._storage, folder, name, [SHARED])
                if table is not None:
                    self._adopt(held, name, table)

    def _adopt(self, held: _Stage, name: str, table: object) -> None:
        try:
            segment = Segment(name, table)
        except (KeyError, ValueError):
            return  # of another format
        if any(one.name == name for one in held.segments):
            return
        held.known.add(name)
        held.segments.append(segment)
        for at, key in enumerate(segment.keys):
            row = segment.row(at, self._plan_id)
            if row is not None:
                held.rows[key] = row
                held.fresh.pop(key, None)

    def _read(
        self,
        stage: str,
        unread: Mapping[str, Stamp],
        found: dict[str, Reading],
        listing: Mapping[str, Stamp],
    ) -> None:
        """Open receipts, some at a time, and write what was read into the cache."""
        names = list(unread)
        listed_ns = time.time_ns()
        for at in range(0, len(names), LARGE_SEGMENT):
            portion = names[at : at + LARGE_SEGMENT]
            for name, outcome in zip(portion, self._open(stage, portion, unread), strict=True):
                if isinstance(outcome, Fresh):
                    self._stages[stage].fresh[key_of(name, unread[name])] = outcome
                    found[name] = Reading(name, unread[name], outcome.row, None)
                elif outcome is not None:
                    found[name] = Reading(name, unread[name], None, outcome)
                else:
                    del found[name]
            self._compact(stage, listing, listed_ns)
            for name in portion:  # what a segment holds needs no receipt in memory
                row = self._find(stage, key_of(name, unread[name]))
                if name in found and row is not None:
                    found[name] = found[name]._replace(row=row)

    def _open(
        self, stage: str, names: Sequence[str], stamps: Mapping[str, Stamp]
    ) -> list[Fresh | CorruptionError | None]:
        def read(name: str) -> Fresh | CorruptionError | None:
            place = f"receipts/{stage}/{name}"
            try:
                receipt = read_own_receipt(self._storage, place, self._plan_id)
            except CorruptionError as error:
                return error
            except StorageError:
                if self._storage.exists(place):
                    raise
                return None  # taken out since it was listed
            return fresh_row(name, stamps[name], receipt)

        if len(names) <= _READERS:
            return [read(name) for name in names]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(read, names))

    def _compact(self, stage: str, listing: Mapping[str, Stamp], listed_ns: int) -> None:
        """Write settled receipts that stand in no segment into one, when they are many."""
        held = self._stages[stage]
        settled = {
            key: one
            for key, one in held.fresh.items()
            if one.pixels is not None
            and one.stamp.version
            and one.stamp.changed_ns < listed_ns - SETTLED_NS
        }
        if len(settled) < COMPACT_AFTER:
            return
        if self._may_write:
            try:
                live = {key_of(name, stamp) for name, stamp in listing.items()}
                self._write(_folder(stage), held, list(settled.values()), live)
            except StorageError:
                self._may_write = False  # read-only or full: what was read is kept in memory
        for key in settled.keys() & held.fresh.keys():
            held.fresh[key] = replace(held.fresh[key], pixels=None)

    def _write(self, folder: str, held: _Stage, rows: Sequence[Fresh], live: set[Key]) -> None:
        """Write a segment, and merge small ones when there are many."""
        pixels = b"".join(one.pixels or b"" for one in rows)
        name = segments.write_segment(self._storage, folder, table_of(rows), pixels)
        table = segments.read_segment(self._storage, folder, name, [SHARED])
        if table is not None:
            self._adopt(held, name, table)
        merged = merge_small(self._storage, folder, held.segments, live, LARGE_SEGMENT)
        if merged is not None:
            self._adopt(held, *merged)
            here = set(segments.segment_names(self._storage, folder))
            held.segments = [one for one in held.segments if one.name in here]

    def _hashes(self, row: Row) -> bytes:
        """The pixel hashes of a shard, 32 bytes each."""
        segment = row.segment
        stage = row.head().stage
        if segment is not None and segment.pixels_name is not None:
            pixels = self._held_pixels(_folder(stage), segment.pixels_name)
            if pixels is not None:
                return segment.pixels_of(row.at, pixels)
        place = f"receipts/{stage}/{row.name}"
        receipt = read_own_receipt(self._storage, place, self._plan_id)
        return bytes.fromhex("".join(receipt.pixel_sha256))

    def _held_pixels(self, folder: str, name: str) -> bytes | None:
        with self._lock:
            pixels = self._pixels.pop(name, None)
            if pixels is None:
                pixels = segments.read_pixels(self._storage, folder, name)
            if pixels is not None:
                self._pixels[name] = pixels
                while len(self._pixels) > _HELD_PIXELS:
                    self._pixels.popitem(last=False)
            return pixels


def _folder(stage: str) -> str:
    return f"ledger/{stage}"
