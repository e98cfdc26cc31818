"""Finding the receipts of a few samples, for a worker, which must not read the whole ledger."""

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.artifacts.receipts import (
    RangeIndex,
    Receipt,
    cover,
    is_receipt_name,
    range_of,
    read_own_receipt,
)
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, gaps_of
from evalsuite.artifacts.storage import Storage
from evalsuite.errors import StorageError

_TRIES = 3
_LISTED_S = 60.0
"""Pixels that were stored since may be made again: that costs time only."""


class _Name(NamedTuple):
    name: str
    start: int
    stop: int


class _Listing(NamedTuple):
    ranges: RangeIndex[_Name]
    at_s: float


class NearReceipts:
    """Opens the receipts of a range alone, and lists a stage when those it knows do not cover it.

    Receipts are read anew each time; only their names are remembered. Several threads may use it.
    """

    def __init__(self, storage: Storage, plan_id: str) -> None:
        self._storage, self._plan_id = storage, plan_id
        self._listings: dict[str, _Listing] = {}
        self._lock = threading.Lock()

    def receipts(self, stage: str, start: int, stop: int, max_age_s: float = 0.0) -> list[Receipt]:
        """Receipts that touch start..stop-1.

        Args:
            stage: whose receipts.
            start: first sample.
            stop: one past the last sample.
            max_age_s: how old a listing may be, in seconds, where it does not cover the range.

        Raises:
            CorruptionError: one cannot be read or belongs to another plan.
        """
        with self._lock:
            asked_s = time.monotonic()
            found: list[Receipt] = []
            for _ in range(_TRIES):
                listing = self._listings.get(stage)
                if listing is None:
                    listing = self._listings[stage] = self._list(stage)
                names = listing.ranges.touching(start, stop)
                found = self._open(stage, names)
                covered = sum(s.stop - s.start for s in cover(found, start, stop))
                is_new = listing.at_s >= asked_s - max_age_s
                if len(found) == len(names) and (covered == stop - start or is_new):
                    break
                del self._listings[stage]
            return found

    def kept_pixels(self, start: int, stop: int) -> list[Receipt]:
        """Shards that keep every pixel of samples start..stop-1, as far as there are any."""
        kept = [r for r in self.receipts(IMAGES, start, stop) if r.kept == "all"]
        if gaps_of([(r.start, r.stop) for r in kept], start, stop):
            kept += self.receipts(PIXELS, start, stop, _LISTED_S)
        return kept

    def _list(self, stage: str) -> _Listing:
        at_s = time.monotonic()
        names = self._storage.names(f"receipts/{stage}", ".json")
        ranges = [_Name(name, *range_of(name)) for name in names if is_receipt_name(name)]
        return _Listing(RangeIndex(ranges), at_s)

    def _open(self, stage: str, names: Sequence[_Name]) -> list[Receipt]:
        """The receipts of that name, but those that were taken out meanwhile."""
        found = []
        for one in names:
            place = f"receipts/{stage}/{one.name}"
            try:
                found.append(read_own_receipt(self._storage, place, self._plan_id))
            except StorageError:
                if self._storage.exists(place):
                    raise
        return found
