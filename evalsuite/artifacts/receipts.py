"""Receipts: the small files that commit a shard of a stage. What has none does not exist."""

import bisect
import errno
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from pydantic import Field, ValidationError

from evalsuite.artifacts.storage import FileEntry, Storage
from evalsuite.config import Frozen, Sha256, explain
from evalsuite.errors import (
    CorruptionError,
    DataError,
    EvalsuiteError,
    Interrupted,
    ReproducibilityError,
)

RECEIPT_SCHEMA = 1
NO_END = 2**62
"""A stop that no sample_index reaches."""
AGAIN = "run the same `evalsuite run` or `generate` again, which makes its samples anew"
_NAME = re.compile(r"^(\d{10,})-(\d{10,})\.json$")


Keep = Literal["all", "grid", "none"]
"""Which pixels a shard of images holds."""


class ReceiptFile(Frozen):
    """One data file of an attempt."""

    path: str
    num_bytes: int
    sha256: Sha256

    @property
    def entry(self) -> FileEntry:
        """As the storage checks it."""
        return FileEntry(self.path, self.num_bytes, self.sha256)


class ReceiptHead(Frozen):
    """All of a receipt but its pixel hashes: what status, planning and costs need."""

    schema_version: int = RECEIPT_SCHEMA
    plan_id: Sha256
    stage: str
    stage_version: int
    start: int
    stop: int
    attempt_id: str
    files: tuple[ReceiptFile, ...] = Field(min_length=1)
    kept: Keep | None = None
    """Of images: all, grid or none."""
    pixels_digest: Sha256
    """SHA-256 over the pixel hashes of the range, so that stages can be matched."""
    nfe: int
    """Network evaluations per image, 0 when the images were read."""
    seconds: dict[str, float]
    energy_joules: float | None = None
    """Of the GPU while it computed the shard, by NVML; None where it was not measured."""
    numerics_id: Sha256
    numerics: dict[str, Any]
    worker: dict[str, Any]
    created_at: str

    @property
    def name(self) -> str:
        """Place of the receipt in the run directory."""
        return receipt_name(self.stage, self.start, self.stop)


class Receipt(ReceiptHead):
    """One committed shard of one stage: samples start..stop-1."""

    pixel_sha256: tuple[Sha256, ...] = ()
    """Of images: one for each sample, kept or not; SHA-256 of its uint8 [H,W,3] bytes."""


class Ranged(Protocol):
    """Whatever holds samples start..stop-1."""

    @property
    def start(self) -> int:
        """First sample."""
        ...

    @property
    def stop(self) -> int:
        """One past the last sample."""
        ...


R = TypeVar("R", bound=Ranged)


class Slice(NamedTuple, Generic[R]):
    """Samples start..stop-1, to be taken from `receipt`."""

    receipt: R
    start: int
    stop: int


def range_name(start: int, stop: int) -> str:
    """`0000000512-0000000768` for samples 512..767."""
    return f"{start:010d}-{stop:010d}"


def receipt_name(stage: str, start: int, stop: int) -> str:
    """Place of a receipt in the run directory."""
    return f"receipts/{stage}/{range_name(start, stop)}.json"


def digest_of_pixels(pixel_sha256: Sequence[str]) -> str:
    """SHA-256 over the concatenated hexadecimal pixel hashes."""
    return hashlib.sha256("".join(pixel_sha256).encode()).hexdigest()


def commit_receipt(storage: Storage, receipt: Receipt) -> bool:
    """Commit an attempt; False when another attempt was first and this one's files are removed.

    Raises:
        ReproducibilityError: the other attempt, of the same numerics, holds other bytes.
        StorageError: it cannot be written or read; see `may_stand`.
    """
    content = json.dumps(receipt.model_dump(mode="json"), indent=1).encode()
    if storage.commit(receipt.name, content):
        return True
    winner = read_receipt(storage, receipt.name)
    if winner.attempt_id == receipt.attempt_id:
        return True
    for file in receipt.files:
        storage.delete(file.path)
    check_same_pixels(winner, receipt)
    return False


def may_stand(storage: Storage, receipt: Receipt, error: BaseException) -> bool:
    """Whether a receipt stands or may come to stand, though `commit_receipt` raised `error`.

    Its files must stay then: an answer that is lost, or not waited for, says nothing of what a
    store has done or will yet do. A receipt does not stand where the last request was refused for
    good and there is none, or another attempt's: not by EIO, as which a soft mount of NFS reports a
    request that the server may still have got. What stays without one is a leftover like those of
    a killed process: whoever repairs makes the shard again, and `gc` removes the file.
    """
    if not isinstance(error, EvalsuiteError) or isinstance(error, Interrupted) or error.may_pass:
        return True
    if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
        return True
    try:
        if storage.find(receipt.name) is None:
            return False
        return read_receipt(storage, receipt.name).attempt_id == receipt.attempt_id
    except EvalsuiteError:
        return True


def check_same_pixels(first: Receipt, second: Receipt) -> None:
    """Raise ReproducibilityError when two attempts of equal numerics differ where they overlap."""
    if first.numerics_id != second.numerics_id:
        return
    low, high = max(first.start, second.start), min(first.stop, second.stop)
    if first.pixel_sha256 and second.pixel_sha256:
        ours = first.pixel_sha256[low - first.start : high - first.start]
        theirs = second.pixel_sha256[low - second.start : high - second.start]
        bad = [low + i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    else:
        same_range = (first.start, first.stop) == (second.start, second.stop)
        bad = [low] if same_range and first.pixels_digest != second.pixels_digest else []
    if bad:
        raise ReproducibilityError(
            f"sample {bad[0]} ({len(bad)} in all, stage {first.stage}) came out with other pixels"
            f" than attempt {first.attempt_id} committed, on equal numerics: this machine does not"
            " compute deterministically; nothing was replaced"
        )


def read_receipt(storage: Storage, name: str) -> Receipt:
    """Read one receipt.

    Raises:
        CorruptionError: it is not a receipt of its own name.
        DataError: a newer evalsuite wrote it.
    """
    where = storage.root / name
    try:
        content = json.loads(storage.read(name))
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > RECEIPT_SCHEMA:
            raise DataError(
                f"receipt {where} has schema version {version}, newer than this evalsuite reads"
                f" ({RECEIPT_SCHEMA}): upgrade evalsuite"
            )
        receipt = Receipt.model_validate(content)
    except ValidationError as error:
        raise CorruptionError(
            f"receipt {where} is damaged: {explain(error, Receipt)}: {AGAIN}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"receipt {where} is not JSON: {AGAIN}") from error
    if receipt.name != name:
        raise CorruptionError(f"receipt {where} is of another range or stage: {AGAIN}")
    return receipt


def range_of(name: str) -> tuple[int, int]:
    """(start, stop) of a receipt's file name.

    Raises:
        ValueError: it is no receipt's name.
    """
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name} is no receipt's name")
    return int(match[1]), int(match[2])


def is_receipt_name(name: str) -> bool:
    """Whether a file among receipts is one by its name; others are nobody's business here."""
    return _NAME.match(name) is not None


def is_own_file(stage: str, start: int, attempt_id: str, path: str) -> bool:
    """Whether a file is named as an attempt of a stage names its own, and no other shard's.

    That is `{folder}/{start:010d}-{stop:010d}-{attempt_id}.{suffix}`; a stop that is not the
    receipt's is right, where the worker was stopped within its shard. A receipt that names others
    is damaged.
    """
    folder, _, name = path.rpartition("/")
    is_of_stage = folder == stage or (stage == "pixels" and folder == "images")
    is_of_attempt = name.rpartition(".")[0].endswith(f"-{attempt_id}")
    return is_of_stage and is_of_attempt and name.startswith(f"{start:010d}-")


def read_own_receipt(storage: Storage, name: str, plan_id: str) -> Receipt:
    """Read one receipt of a plan.

    Raises:
        CorruptionError: it cannot be read or belongs to another plan.
    """
    receipt = read_receipt(storage, name)
    if receipt.plan_id != plan_id:
        raise CorruptionError(f"{storage.root}/{receipt.name} belongs to another plan: {AGAIN}")
    return receipt


def read_receipts(
    storage: Storage, stage: str, plan_id: str, start: int = 0, stop: int | None = None
) -> list[Receipt]:
    """The receipts of a stage that touch start..stop-1, in the order of their ranges.

    Each is opened: for many, without their pixel hashes, see `ledger.Ledger`.

    Raises:
        CorruptionError: one cannot be read or belongs to another plan.
    """
    receipts = []
    for name in filter(is_receipt_name, storage.names(f"receipts/{stage}", ".json")):
        low, high = range_of(name)
        if start < high and (stop is None or low < stop):
            receipts.append(read_own_receipt(storage, f"receipts/{stage}/{name}", plan_id))
    return receipts


def cover(receipts: Iterable[R], start: int, stop: int) -> list[Slice[R]]:
    """Disjoint slices of `receipts` that cover as much as there is of start..stop-1, in order.

    Overlapping receipts (shards of two sizes that ran at the same time) are used once each.
    """
    slices: list[Slice[R]] = []
    at = start
    for receipt in sorted(receipts, key=lambda r: (r.start, -r.stop)):
        low, high = max(receipt.start, at), min(receipt.stop, stop)
        if low < high:
            slices.append(Slice(receipt, low, high))
            at = high
    return slices


def disjoint(receipts: Iterable[R]) -> list[R]:
    """Receipts that share no sample and together hold as many samples as can be, in order."""
    ranges = sorted(receipts, key=lambda r: (r.stop, r.start))
    stops = [one.stop for one in ranges]
    most = [0]  # samples of the best choice among the first so many
    before = [bisect.bisect_right(stops, one.start) for one in ranges]
    for at, one in enumerate(ranges):
        most.append(max(most[at], most[before[at]] + one.stop - one.start))
    chosen: list[R] = []
    at = len(ranges)
    while at:
        if most[at] == most[at - 1]:
            at -= 1
        else:
            chosen.append(ranges[at - 1])
            at = before[at - 1]
    return chosen[::-1]


class RangeIndex(Generic[R]):
    """Finds which of many ranges touch a given one, without looking at all of them."""

    def __init__(self, ranges: Iterable[R]) -> None:
        self._ranges = sorted(ranges, key=lambda r: (r.start, -r.stop))
        self._starts = [r.start for r in self._ranges]
        self._reach = list(itertools.accumulate((r.stop for r in self._ranges), max))

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def touching(self, start: int, stop: int) -> list[R]:
        """Those that share a sample with start..stop-1, in order."""
        at = bisect.bisect_left(self._starts, stop)
        found = []
        while at and self._reach[at - 1] > start:
            at -= 1
            if self._ranges[at].stop > start:
                found.append(self._ranges[at])
        return found[::-1]
