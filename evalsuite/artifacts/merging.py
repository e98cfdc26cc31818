"""Merging of small segments into one, so that a cache that grows by little stays few files."""

from collections.abc import Collection, Sequence

import pyarrow as pa

from evalsuite.artifacts import segments
from evalsuite.artifacts.ledger_rows import HASH_BYTES, SHARED, Key, Segment
from evalsuite.artifacts.storage import Storage

MOST_SMALL = 8
"""Small segments that may lie in one folder."""
_MOST_PIXELS = (
    2**19
)  # hashes of one segment, or little more: 16 MiB, of which there are two in memory


def merge_small(
    storage: Storage,
    folder: str,
    held: Sequence[Segment],
    live: Collection[Key],
    large: int,
) -> tuple[str, pa.Table] | None:
    """Write the live rows of small segments as one, then remove those; gives the new one.

    A reader, or another writer, may be at work on the same folder: whoever misses a segment that is
    removed here finds its rows in the new one or in the receipts.

    Args:
        storage: where the cache lies.
        folder: folder of the segments.
        held: those that are known.
        live: rows whose receipts exist; the others are dropped.
        large: rows from which on a segment is left alone.

    Raises:
        StorageError: the store cannot be written.
    """
    small = [one for one in held if len(one) < large and sum(one.num_pixels) < _MOST_PIXELS]
    if len(small) <= MOST_SMALL:
        return None
    tables: list[pa.Table] = []
    pixels: list[memoryview] = []
    seen: set[Key] = set()
    merged: list[Segment] = []
    for one in small:
        if len(seen) >= large or sum(map(len, pixels)) >= HASH_BYTES * _MOST_PIXELS:
            break
        merged.append(one)
        _take(storage, folder, one, live, seen, tables, pixels)
    if not tables:
        return None
    table = pa.concat_tables(tables).unify_dictionaries()
    name = segments.write_segment(storage, folder, table, b"".join(pixels))
    written = segments.read_segment(storage, folder, name, [SHARED])
    if written is None:
        return None
    beside = segments.pixels_name(written)
    for one in merged:
        if one.name != name:
            theirs = one.pixels_name if one.pixels_name != beside else None
            segments.remove_segment(storage, folder, one.name, theirs)
    return name, written


def _take(
    storage: Storage,
    folder: str,
    segment: Segment,
    live: Collection[Key],
    seen: set[Key],
    tables: list[pa.Table],
    pixels: list[memoryview],
) -> None:
    """Add the live rows of one segment that are not in yet, with their pixel hashes."""
    table = segments.read_segment(storage, folder, segment.name, [SHARED])
    hashes: bytes | None = b""
    if segment.pixels_name is not None:
        hashes = segments.read_pixels(storage, folder, segment.pixels_name)
    if table is None or hashes is None:
        return
    places = [at for at, key in enumerate(segment.keys) if key in live and key not in seen]
    seen.update(segment.keys[at] for at in places)
    tables.append(table.take(pa.array(places, pa.int64())))
    whole = memoryview(hashes)  # whose slices are no copies
    pixels += [segment.pixels_of(at, whole) for at in places]
