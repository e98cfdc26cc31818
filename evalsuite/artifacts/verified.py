"""Which data files need no hashing again: those that nobody changed since they were checked.

A file's size always counts. Its SHA-256 is known without reading it in two cases: nothing changed
the file since the worker, which hashed what it wrote, committed its receipt; or it was hashed
later, and is the same version. Both go by times that the file system sets (or an object's ETag), so
a file that was copied, restored or touched is hashed again, once. What a disk corrupts in silence
has no new time: `verify`, and `--hash-all`, read every byte.
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from evalsuite.artifacts import segments
from evalsuite.artifacts.storage import FileEntry, Stamp, Storage
from evalsuite.errors import StorageError

_FOLDER = "ledger/verified"
_COLUMNS = ("path", "num_bytes", "version", "sha256")
_SCHEMA = pa.schema(
    [(name, pa.int64() if name == "num_bytes" else pa.string()) for name in _COLUMNS]
)
_MOST_SEGMENTS = 8
_MANY_FILES, _MANY_BYTES = 64, 64 * 2**20
"""So much hashing is worth a note."""
_SETTLED_NS = 5 * 10**9
_SECOND_NS = 10**9
_HASHERS = 4
_PORTION = 1024


class Claim(NamedTuple):
    """A file that a receipt names."""

    entry: FileEntry
    receipt_name: str
    receipt_stamp: Stamp
    created_at: str
    """What the receipt says of its own time."""


class FileChecker:
    """Finds files that are not what their receipts name."""

    def __init__(self, storage: Storage, *, hash_all: bool) -> None:
        self._storage, self._hash_all = storage, hash_all
        self._folders: dict[str, dict[str, Stamp]] = {}
        self._verified: set[tuple[str, int, str, str]] | None = None
        self._noted: list[tuple[str, int, str, str]] = []

    def faults(self, claims: Iterable[Claim]) -> list[tuple[Claim, str]]:
        """What is wrong with files, in the order of `claims`."""
        doubtful = [claim for claim in claims if not self._is_known(claim)]
        found: list[tuple[Claim, str]] = []
        with ThreadPoolExecutor(_HASHERS) as pool:
            for at in range(0, len(doubtful), _PORTION):
                portion = doubtful[at : at + _PORTION]
                texts = pool.map(self._storage.fault_of, [claim.entry for claim in portion])
                for claim, text in zip(portion, texts, strict=True):
                    found += [(claim, text)] if text is not None else []
                    self._note(claim, is_sound=text is None)
                self._write(at_least=_MANY_FILES)
        return found

    def _is_known(self, claim: Claim) -> bool:
        """Whether the bytes are the recorded ones for sure, without reading them."""
        stamp = self._stamp_of(claim.entry.path)
        if self._hash_all or stamp is None or stamp.num_bytes != claim.entry.num_bytes:
            return False
        return is_as_committed(stamp, claim) or self._was_verified(claim.entry, stamp)

    def _stamp_of(self, path: str) -> Stamp | None:
        folder, _, name = path.rpartition("/")
        if not folder:
            return None
        if folder not in self._folders:
            self._folders[folder] = self._storage.stamps(folder)
        return self._folders[folder].get(name)

    def _was_verified(self, entry: FileEntry, stamp: Stamp) -> bool:
        if self._verified is None:
            self._verified = _read(self._storage)
        return (entry.path, stamp.num_bytes, stamp.version, entry.sha256) in self._verified

    def _note(self, claim: Claim, *, is_sound: bool) -> None:
        """Keep what was hashed, unless it could change again without a new time."""
        stamp = self._stamp_of(claim.entry.path)
        if not is_sound or stamp is None or not stamp.version or is_as_committed(stamp, claim):
            return
        if stamp.changed_ns < time.time_ns() - _SETTLED_NS:
            entry = claim.entry
            self._noted.append((entry.path, stamp.num_bytes, stamp.version, entry.sha256))

    def _write(self, at_least: int) -> None:
        """Write what was noted, when it was much work."""
        noted = self._noted
        if len(noted) < at_least and sum(row[1] for row in noted) < _MANY_BYTES:
            return
        self._noted = []
        try:
            _write(self._storage, noted)
        except StorageError:
            return  # read-only or full: it is hashed again next time


def is_as_committed(stamp: Stamp, claim: Claim) -> bool:
    """Whether nothing changed a file since its receipt was written.

    The receipt's own time (whole seconds, by the worker's clock) stands beside that of its file: a
    copy of the run has newer times of both.
    """
    try:
        created = datetime.fromisoformat(claim.created_at).timestamp()
    except ValueError:
        return False
    committed_ns = min(claim.receipt_stamp.modified_ns, int(created * _SECOND_NS) + _SECOND_NS)
    return stamp.changed_ns <= committed_ns


def _read(storage: Storage) -> set[tuple[str, int, str, str]]:
    found: set[tuple[str, int, str, str]] = set()
    for name in segments.segment_names(storage, _FOLDER):
        table = segments.read_segment(storage, _FOLDER, name, ())
        if table is not None and table.schema.names == list(_COLUMNS):
            found |= set(zip(*(table[key].to_pylist() for key in _COLUMNS), strict=True))
    return found


def _write(storage: Storage, rows: list[tuple[str, int, str, str]]) -> None:
    """Add a segment; with many of them, all become one, which keeps the last of each path."""
    before = segments.segment_names(storage, _FOLDER)
    merged = len(before) >= _MOST_SEGMENTS
    if merged:
        latest = {row[0]: row for row in sorted(_read(storage))} | {row[0]: row for row in rows}
        rows = list(latest.values())
    columns = dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    name = segments.write_segment(storage, _FOLDER, pa.table(columns, schema=_SCHEMA))
    for old in before if merged else ():
        if old != name:
            segments.remove_segment(storage, _FOLDER, old, None)
