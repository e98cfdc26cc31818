"""Features of outside samples as committed shards in this machine's cache; a few sets are kept.

    features/<key>/about.json                                  whose features these are
    features/<key>/features/0000000000-0000000512-<attempt>.safetensors
    features/<key>/receipts/features/0000000000-0000000512.json   created last: commits the shard

The key is that of everything that decides the bits: files, how they are read, extractor, machine.
Legend: N images.
"""

import contextlib
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.digests import cache_root
from evalsuite.artifacts.features import FeatureTable, decode_features, encode_features
from evalsuite.artifacts.receipts import Receipt, cover, digest_of_pixels, read_receipt
from evalsuite.artifacts.run_directory import gaps_of
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.config import canonical_json
from evalsuite.errors import CorruptionError, DataError, StorageError
from evalsuite.pipeline.ranges import Range
from evalsuite.pipeline.shard_files import Maker, ShardFile, commit_file, forget_file
from evalsuite.pipeline.stages import STAGE_VERSION

KEPT_BYTES = 10 * 2**30
"""When the sets of features take more than this, the ones that were used least recently go."""
STAGE = "features"
_IN_USE_S = 3600.0
_ABOUT, _CHECKED = "about.json", "checked"


class Shard(NamedTuple):
    """Features of consecutive samples, and the SHA-256 of each one's pixels."""

    table: FeatureTable
    pixel_sha256: Sequence[str]


class Extracted(NamedTuple):
    """Features of samples 0..N-1, and one digest of their pixels in order."""

    table: FeatureTable
    pixels_digest: str


class Rows:
    """Features and pixel hashes of samples 0..N-1 in one table, which shards fill in any order."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._columns: list[NDArray[np.float32] | None] = []
        self._hashes = [""] * num_samples
        self._covered: list[Range] = []

    def take(self, shard: Shard) -> None:
        """Copy the rows of a shard that lie in 0..N-1."""
        start = shard.table.start
        stop = min(start + len(shard.table.pool_ND), self._num_samples)
        if stop <= start:
            return
        arrays = shard.table[1:]
        if not self._columns:
            self._columns = [
                None if a is None else np.empty((self._num_samples, a.shape[1]), np.float32)
                for a in arrays
            ]
        for column, rows in zip(self._columns, arrays, strict=True):
            if column is not None and rows is not None:
                column[start:stop] = rows[: stop - start]
        self._hashes[start:stop] = shard.pixel_sha256[: stop - start]
        self._covered.append((start, stop))

    def gaps(self) -> list[Range]:
        """Ranges that no shard has filled."""
        return gaps_of(self._covered, 0, self._num_samples)

    def result(self) -> Extracted:
        """Everything, once there are no gaps.

        Raises:
            DataError: there are gaps, or no sample at all.
        """
        gaps = self.gaps()
        if gaps or not self._columns or self._columns[0] is None:
            raise DataError(f"features of samples {gaps[:3]} are missing: run the command again")
        table = FeatureTable(0, self._columns[0], *self._columns[1:])
        return Extracted(table, digest_of_pixels(self._hashes))


@dataclass(frozen=True)
class FeatureCache:
    """The committed shards of one set of samples, extractor and machine.

    Attributes:
        folder: where they lie; workers of other machines must see it too.
        key: SHA-256 of what decides the bits.
    """

    folder: Path
    key: str

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> "FeatureCache":
        """The cache for what `identity` tells; nothing is written yet."""
        key = hashlib.sha256(canonical_json(identity)).hexdigest()
        return cls((cache_root() / "features" / key[:32]).absolute(), key)

    def describe(self, about: Mapping[str, Any]) -> None:
        """Say in the folder whose features these are, which also notes that they are used now.

        Raises:
            StorageError: it cannot be written.
        """
        content = json.dumps({**about, "key": self.key}, indent=1).encode()
        self._storage.replace(_ABOUT, content)

    def fill(self, rows: Rows, start: int = 0, stop: int | None = None) -> None:
        """Give `rows` the shards of start..stop-1; damaged ones are removed, to be made again."""
        receipts = self._receipts()
        stop = max((r.stop for r in receipts), default=0) if stop is None else stop
        for part in cover(receipts, start, stop):
            receipt = part.receipt
            try:
                table = self._table(receipt)
            except CorruptionError:
                forget_file(self._storage, receipt)
                continue
            hashes = receipt.pixel_sha256[part.start - receipt.start : part.stop - receipt.start]
            rows.take(Shard(table.rows(part.start, part.stop), hashes))

    def commit(
        self, shard: Shard, attempt_id: str, seconds: float, worker: Mapping[str, Any]
    ) -> bool:
        """Write a shard and then its receipt; False when another attempt was first.

        Raises:
            ReproducibilityError: the other attempt was made of other pixels.
            StorageError: the cache cannot be written.
        """
        content, start = encode_features(shard.table), shard.table.start
        file = ShardFile(self.key, STAGE, start, shard.pixel_sha256, content, ".safetensors")
        maker = Maker(attempt_id, seconds, worker)
        return commit_file(self._storage, file, maker, keep_hashes=True)

    @property
    def checked(self) -> bool:
        """Whether the checksums of the samples' files were verified."""
        return self._storage.exists(_CHECKED)

    def note_checked(self) -> None:
        """Remember that the checksums of the samples' files were verified."""
        self._storage.replace(_CHECKED, b"")

    def remove_leftovers(self) -> None:
        """Remove shards that lost attempts never committed; those of the last hour may yet be."""
        named = {file.path for receipt in self._receipts() for file in receipt.files}
        for name in self._storage.names(STAGE):
            path = f"{STAGE}/{name}"
            with contextlib.suppress(OSError):
                old = time.time() - (self.folder / path).stat().st_mtime > _IN_USE_S
                if path not in named and old:
                    self._storage.delete(path)

    def remove(self) -> None:
        """Remove the whole set."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _storage(self) -> LocalStorage:
        return LocalStorage(self.folder)

    def _receipts(self) -> list[Receipt]:
        """The receipts; those that cannot be read are removed, and their shards are leftovers."""
        receipts = []
        for name in self._storage.names(f"receipts/{STAGE}", ".json"):
            path = f"receipts/{STAGE}/{name}"
            try:
                receipt = read_receipt(self._storage, path)
                if receipt.plan_id != self.key:
                    raise CorruptionError(f"{self.folder}/{path} is of other samples")
                if receipt.stage_version != STAGE_VERSION:
                    raise CorruptionError(f"{self.folder}/{path} is of another version")
            except CorruptionError:
                self._storage.delete(path)
                continue
            receipts.append(receipt)
        return receipts

    def _table(self, receipt: Receipt) -> FeatureTable:
        (file,) = receipt.files
        table = decode_features(self._storage.read_checked(file.entry), file.path)
        if (table.start, len(table.pool_ND)) != (receipt.start, receipt.stop - receipt.start):
            raise CorruptionError(f"{self.folder}/{file.path} holds other samples than it should")
        return table


class ShardKeeper:
    """Takes shards into the rows and commits them; a cache that fails is given up, and said."""

    def __init__(
        self,
        rows: Rows,
        cache: FeatureCache | None,
        worker: Mapping[str, Any],
        notice: Callable[[str], None],
    ) -> None:
        self._rows, self._cache = rows, cache
        self._worker, self._notice = worker, notice
        self._attempt_id = secrets.token_hex(4)
        self._last_s = time.monotonic()

    def __call__(self, shard: Shard) -> None:
        """Keep a shard."""
        self._rows.take(shard)
        seconds, self._last_s = time.monotonic() - self._last_s, time.monotonic()
        if self._cache is None:
            return
        try:
            self._cache.commit(shard, self._attempt_id, seconds, self._worker)
        except StorageError as error:
            self._notice(f"features are not kept any more: {error}")
            self._cache = None


class CachedSet(NamedTuple):
    """One set of features in the cache."""

    folder: Path
    about: Mapping[str, Any]
    num_bytes: int
    used_at: float
    """When it was used or written last, in seconds since the epoch."""


def cached_sets() -> list[CachedSet]:
    """All sets of features, the ones that were used least recently first."""
    root = cache_root() / "features"
    if not root.is_dir():
        return []
    return sorted((_described(folder) for folder in root.iterdir()), key=lambda s: s.used_at)


def removable_sets(older_than_s: float = _IN_USE_S) -> list[CachedSet]:
    """Sets of features that nobody has used or written for so long."""
    return [one for one in cached_sets() if time.time() - one.used_at >= older_than_s]


def remove_set(one: CachedSet) -> None:
    """Remove a set of features; what another process removes at the same time is no error."""
    shutil.rmtree(one.folder, ignore_errors=True)


def trim(spared: Path, kept_bytes: int = KEPT_BYTES) -> list[CachedSet]:
    """Remove the sets that were used least recently until all take `kept_bytes` at most.

    Args:
        spared: the set in use; sets that were used within the last hour stay too.
        kept_bytes: for all of them.

    Returns:
        What was removed.
    """
    excess = sum(one.num_bytes for one in cached_sets()) - kept_bytes
    removed = []
    for one in removable_sets():
        if excess > 0 and one.folder.absolute() != spared:
            remove_set(one)
            excess -= one.num_bytes
            removed.append(one)
    return removed


def _described(folder: Path) -> CachedSet:
    about: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        about = json.loads((folder / _ABOUT).read_bytes())
    sizes, times = [0], [0.0]
    for path in [folder, *folder.rglob("*")]:
        with contextlib.suppress(OSError):  # it may be removed meanwhile
            found = path.stat()
            times.append(found.st_mtime)
            sizes.append(0 if path.is_dir() else found.st_size)
    return CachedSet(folder, about, sum(sizes), max(times))
