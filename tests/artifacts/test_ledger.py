"""The ledger reads as opening every receipt does, whatever becomes of its cache."""

import contextlib
import gc
import json
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from artifact_builder import make_plan, make_receipt
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.artifacts import ledger, merging
from evalsuite.artifacts.ledger import Ledger
from evalsuite.artifacts.near import NearReceipts
from evalsuite.artifacts.receipts import (
    RangeIndex,
    Receipt,
    ReceiptHead,
    cover,
    digest_of_pixels,
    read_receipts,
)
from evalsuite.artifacts.run_directory import IMAGES
from evalsuite.artifacts.storage import LocalStorage, Storage
from evalsuite.errors import CorruptionError, EvalsuiteError, StorageError

PLAN_ID = make_plan().plan_id
FOLDER = f"ledger/{IMAGES}"


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few receipts are many, and old at once."""
    monkeypatch.setattr(ledger, "COMPACT_AFTER", 2)
    monkeypatch.setattr(ledger, "LARGE_SEGMENT", 6)
    monkeypatch.setattr(ledger, "SETTLED_NS", 0)
    monkeypatch.setattr(ledger, "_FEW", 0)
    monkeypatch.setattr(merging, "MOST_SMALL", 2)


def put(storage: Storage, receipt: Receipt) -> None:
    """Write a receipt, or another in its place."""
    storage.replace(receipt.name, json.dumps(receipt.model_dump(mode="json")).encode())


def as_read(storage: Storage) -> list[dict[str, Any]] | str:
    """What opening every receipt says, without pixel hashes; or its error."""
    try:
        receipts = read_receipts(storage, IMAGES, PLAN_ID)
    except CorruptionError as error:
        return str(error)
    return [receipt.model_dump(exclude={"pixel_sha256"}) for receipt in receipts]


def as_told(storage: Storage, one: Ledger | None = None) -> list[dict[str, Any]] | str:
    """What the ledger says, of this process or of a new one."""
    try:
        heads = (one or Ledger(storage, PLAN_ID)).heads(IMAGES)
    except CorruptionError as error:
        return str(error)
    assert all(type(head) is ReceiptHead for head in heads)
    return [head.model_dump() for head in heads]


def segments(storage: Storage, suffix: str = ".index") -> list[str]:
    return storage.names(FOLDER, suffix)


def filled(storage: Storage, count: int) -> Ledger:
    """So many receipts of four samples each, in segments."""
    for i in range(count):
        put(storage, make_receipt(4 * i, 4 * i + 4))
    found = Ledger(storage, PLAN_ID)
    assert as_told(storage, found) == as_read(storage)
    return found


@contextlib.contextmanager
def no_receipt_opened(storage: Storage) -> Iterator[None]:
    """Receipts can be listed but not read."""
    names = storage.names(f"receipts/{IMAGES}")
    places = [storage.path(f"receipts/{IMAGES}/{name}") for name in names]
    before = Path.read_bytes

    def refuse(path: Path) -> bytes:
        assert path not in places, f"{path} was opened"
        return before(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        yield


def test_what_stands_in_segments_is_not_opened_again(storage: Storage) -> None:
    filled(storage, 5)
    assert segments(storage)
    with no_receipt_opened(storage):
        assert len(Ledger(storage, PLAN_ID).heads(IMAGES)) == 5
        assert Ledger(storage, PLAN_ID).spans(IMAGES, 5, 9) == [(4, 8, "all"), (8, 12, "all")]


def test_status_and_coverage_never_read_pixel_hashes(storage: Storage) -> None:
    filled(storage, 5)
    for name in segments(storage, ".pixels"):
        storage.delete(f"{FOLDER}/{name}")
    with no_receipt_opened(storage):
        assert as_told(storage) != []


def test_a_receipt_that_is_gone_does_not_exist(storage: Storage) -> None:
    """However many segments name it."""
    one = filled(storage, 5)
    storage.delete(make_receipt(4, 8).name)
    for told in (as_told(storage, one), as_told(storage)):
        assert [head["start"] for head in told] == [0, 8, 12, 16]


def test_an_edited_receipt_is_noticed(storage: Storage) -> None:
    """Also one of the same size whose time of writing was set back."""
    one = filled(storage, 4)
    receipt = make_receipt(4, 8)
    path = storage.path(receipt.name)
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"nfe": 3', b'"nfe": 7'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    for told in (as_told(storage, one), as_told(storage)):
        assert [head["nfe"] for head in told] == [3, 7, 3, 3]


def test_a_receipt_that_has_just_changed_is_not_cached(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It might change again within one tick of the clock."""
    monkeypatch.setattr(ledger, "SETTLED_NS", 3600 * 10**9)
    filled(storage, 5)
    assert segments(storage) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "renamed"])
def test_a_damaged_segment_is_not_believed(storage: Storage, damage: str) -> None:
    filled(storage, 4)
    for name in [*segments(storage), *segments(storage, ".pixels")]:
        path = storage.path(f"{FOLDER}/{name}")
        content = path.read_bytes()
        if damage == "renamed":
            path.rename(path.with_name("segment-" + "0" * 64 + path.suffix))
        else:
            flipped = bytearray(content)
            flipped[len(flipped) // 2] ^= 1
            new = {"cut": content[:-9], "empty": b"", "other": b"PAR1"}.get(damage, bytes(flipped))
            path.write_bytes(new)
    assert as_told(storage) == as_read(storage)
    assert digest(storage, 2, 10) == digest_as_read(storage, 2, 10)


def digest(storage: Storage, start: int, stop: int, one: Ledger | None = None) -> str | None:
    one = one or Ledger(storage, PLAN_ID)
    return one.pixels_digest(RangeIndex(one.rows(IMAGES)), start, stop)


def digest_as_read(storage: Storage, start: int, stop: int) -> str | None:
    found: list[str] = []
    for part in cover(read_receipts(storage, IMAGES, PLAN_ID), start, stop):
        low = part.start - part.receipt.start
        found += part.receipt.pixel_sha256[low : low + part.stop - part.start]
    return digest_of_pixels(found) if len(found) == stop - start else None


def test_pixel_hashes_come_from_segments(storage: Storage) -> None:
    """Of any range, of shards of two sizes; a hole gives none."""
    filled(storage, 6)
    put(storage, make_receipt(10, 18))
    put(storage, make_receipt(30, 40))
    one = Ledger(storage, PLAN_ID)
    as_told(storage, one)
    with no_receipt_opened(storage):
        digests = {span: digest(storage, *span) for span in [(0, 4), (1, 23), (9, 12), (20, 32)]}
    for span, found in digests.items():
        assert found == digest_as_read(storage, *span)
    assert digests[20, 32] is None
    assert digests[1, 23] is not None


def test_a_digest_is_of_the_hashes_not_of_what_the_receipt_says(storage: Storage) -> None:
    filled(storage, 3)
    receipt = make_receipt(0, 4)
    changed = ("0" * 64, *receipt.pixel_sha256[1:])
    put(storage, receipt.model_copy(update={"pixel_sha256": changed}))
    assert digest(storage, 0, 4) == digest_of_pixels(changed) != receipt.pixels_digest


def test_faults_are_those_of_reading(storage: Storage) -> None:
    """Foreign files, other plans, broken ones: named as when every receipt is opened."""
    filled(storage, 3)
    broken = make_receipt(12, 16)
    storage.replace(broken.name, b"{")
    assert as_told(storage) == as_read(storage)
    assert "not JSON" in as_read(storage)
    storage.replace(broken.name, broken.model_dump_json().replace(PLAN_ID, "ab" * 32).encode())
    assert as_told(storage) == as_read(storage)
    assert "another plan" in as_told(storage)
    heads, damaged = Ledger(storage, PLAN_ID).readable(IMAGES)
    assert (len(heads), len(damaged)) == (3, 1)
    assert "another plan" in damaged[0]
    storage.delete(broken.name)
    storage.replace(f"receipts/{IMAGES}/notes.json", b"{}")
    assert as_told(storage) == as_read(storage)
    assert len(as_told(storage)) == 3


def test_a_ledger_of_another_plan_takes_nothing_from_the_cache(storage: Storage) -> None:
    filled(storage, 3)
    with pytest.raises(CorruptionError, match="another plan"):
        Ledger(storage, "cd" * 32).heads(IMAGES)


def test_a_copied_run_is_read_anew(storage: Storage, tmp_path: Path) -> None:
    """Its receipts are other files, whatever times they carry."""
    import shutil

    filled(storage, 4)
    copy = LocalStorage(shutil.copytree(storage.root, tmp_path / "copy"))
    put(copy, make_receipt(0, 4, attempt="b1"))
    assert as_told(copy) == as_read(copy)
    assert as_told(copy)[0]["attempt_id"] == "b1"


class Failing(LocalStorage):
    """Fails at one of its writing steps, or dies there: nothing later happens either."""

    def __init__(self, root: Path, at: int, *, dies: bool) -> None:
        super().__init__(root)
        self._left, self._dies = at, dies

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0 or (self._dies and self._left < 0):
            raise KeyboardInterrupt if self._dies else StorageError("no space")

    def replace(self, relative: str, content: bytes) -> None:
        self._step()
        super().replace(relative, content)

    def delete(self, relative: str) -> None:
        self._step()
        super().delete(relative)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("at", range(1, 13))
def test_a_crash_at_any_step_of_compaction_loses_nothing(
    storage: Storage, at: int, dies: bool
) -> None:
    """Pixels, index, merged pixels, merged index, each removal; with readers at work."""
    running = filled(storage, 2)
    for i in range(2, 12, 2):
        put(storage, make_receipt(4 * i, 4 * i + 4))
        put(storage, make_receipt(4 * i + 4, 4 * i + 8))
        broken = Failing(storage.root, at, dies=dies)
        with contextlib.suppress(KeyboardInterrupt):
            assert as_told(storage, Ledger(broken, PLAN_ID)) == as_read(storage)
        assert as_told(storage) == as_told(storage, running) == as_read(storage)
        assert digest(storage, 1, 4 * i + 6) == digest_as_read(storage, 1, 4 * i + 6)


def test_segments_stay_few_and_whole(storage: Storage) -> None:
    """As receipts come by little; what merging replaces goes."""
    one = Ledger(storage, PLAN_ID)
    for i in range(40):
        put(storage, make_receipt(4 * i, 4 * i + 4))
        one.heads(IMAGES)
    assert len(segments(storage)) <= 40 // 6 + 3
    assert len(segments(storage, ".pixels")) == len(segments(storage))
    with no_receipt_opened(storage):
        assert len(Ledger(storage, PLAN_ID).heads(IMAGES)) == 40


def test_a_read_only_run_can_be_read(storage: Storage) -> None:
    filled(storage, 1)
    put(storage, make_receipt(4, 8))
    put(storage, make_receipt(8, 12))
    one = Ledger(Failing(storage.root, 1, dies=False), PLAN_ID)
    assert as_told(storage, one) == as_read(storage)
    with no_receipt_opened(storage):
        assert len(one.heads(IMAGES)) == 3


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "edit", "remove"]), st.integers(0, 9)),
        st.tuples(st.just("put wide"), st.integers(0, 4)),
        st.tuples(st.just("new process"), st.just(0)),
        st.tuples(st.sampled_from(["drop", "crash"]), st.integers(0, 5)),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_any_history_reads_as_opening_every_receipt(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Commits, edits and removals, segments that vanish, crashes, old and new processes."""
    storage = LocalStorage(tmp_path_factory.mktemp("history"))
    one = Ledger(storage, PLAN_ID)
    for number, (what, i) in enumerate(steps):
        receipt = make_receipt(4 * i, 4 * i + 4, attempt=f"a{number}", nfe=number)
        if what == "put" or (what == "edit" and storage.exists(receipt.name)):
            put(storage, receipt)
        elif what == "put wide":
            put(storage, make_receipt(8 * i, 8 * i + 10, attempt=f"w{number}"))
        elif what == "remove":
            storage.delete(receipt.name)
        elif what == "new process":
            one = Ledger(storage, PLAN_ID)
        elif what == "drop":
            names = [*segments(storage), *segments(storage, ".pixels")]
            for name in names[i : i + 1]:
                storage.delete(f"{FOLDER}/{name}")
        else:
            with contextlib.suppress(KeyboardInterrupt):
                Ledger(Failing(storage.root, i + 1, dies=True), PLAN_ID).heads(IMAGES)
        assert as_told(storage, one) == as_read(storage)
    assert as_told(storage) == as_read(storage)
    assert digest(storage, 2, 30, one) == digest_as_read(storage, 2, 30)
    assert digest(storage, 8, 12) == digest_as_read(storage, 8, 12)


def test_many_writers_compact_the_same_receipts_at_once(storage: Storage) -> None:
    """While more are committed; every answer is one that opening every receipt could give."""
    ends = threading.Event()
    faults: list[object] = []

    def look() -> None:
        while not ends.is_set():
            try:
                heads = Ledger(storage, PLAN_ID).heads(IMAGES)
            except EvalsuiteError as error:
                faults.append(error)
                return
            starts = [head.start for head in heads]
            if starts != list(range(0, 4 * len(starts), 4)):
                faults.append(starts)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(60):
        put(storage, make_receipt(4 * i, 4 * i + 4))
        time.sleep(0.005)
    ends.set()
    for thread in threads:
        thread.join(30)
    assert faults == []
    assert as_told(storage) == as_read(storage)


def test_a_worker_opens_only_the_receipts_of_its_range(storage: Storage) -> None:
    """And lists them once, until they do not cover a range that it is asked for."""
    filled(storage, 6)
    listed, opened = [], []

    class Counting(LocalStorage):
        def names(self, folder: str, suffix: str = "") -> list[str]:
            listed.append(folder)
            return super().names(folder, suffix)

        def read(self, relative: str) -> bytes:
            opened.append(relative)
            return super().read(relative)

    near = NearReceipts(Counting(storage.root), PLAN_ID)
    for start in (4, 8, 4):
        (found,) = near.receipts(IMAGES, start, start + 4)
        assert found == make_receipt(start, start + 4)
    assert len(opened) == 3
    assert len(listed) == 1
    put(storage, make_receipt(24, 28))
    assert [r.start for r in near.receipts(IMAGES, 22, 28)] == [20, 24]
    assert len(listed) == 2
    assert near.receipts(IMAGES, 40, 44, max_age_s=60) == []
    assert len(listed) == 2
    assert near.receipts(IMAGES, 40, 44) == []
    assert len(listed) == 3


def test_a_worker_follows_receipts_that_were_taken_out_and_made_again(storage: Storage) -> None:
    filled(storage, 3)
    near = NearReceipts(storage, PLAN_ID)
    assert len(near.receipts(IMAGES, 0, 12)) == 3
    storage.delete(make_receipt(4, 8).name)
    assert [r.start for r in near.receipts(IMAGES, 0, 12)] == [0, 8]
    put(storage, make_receipt(4, 8, attempt="b2"))
    assert [r.attempt_id for r in near.receipts(IMAGES, 0, 12)] == ["a0", "b2", "a0"]


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=8)


@given(SPANS, st.integers(0, 30), st.integers(1, 12))
def test_an_index_of_ranges_finds_what_touches(
    spans: list[tuple[int, int]], start: int, length: int
) -> None:
    """In the order in which `cover` takes them."""
    receipts = [Receipt.model_construct(start=low, stop=low + size) for low, size in spans]
    found = RangeIndex(receipts).touching(start, start + length)
    wanted = [r for r in receipts if r.start < start + length and start < r.stop]
    key = [(r.start, -r.stop) for r in found]
    assert key == sorted((r.start, -r.stop) for r in wanted)
    assert cover(found, start, start + length) == cover(receipts, start, start + length)


def test_a_committed_shard_costs_a_long_run_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number of pixel hashes its receipt names: these are let go."""
    monkeypatch.setattr(ledger, "COMPACT_AFTER", 64)
    monkeypatch.setattr(ledger, "LARGE_SEGMENT", 256)
    monkeypatch.setattr(merging, "MOST_SMALL", 2)
    storage, size, num_held = LocalStorage(tmp_path), 200, 0
    looking = Ledger(storage, PLAN_ID)

    def grow_to(count: int) -> int:
        nonlocal num_held
        for i in range(num_held, count):
            put(storage, make_receipt(size * i, size * (i + 1)))
        num_held = count
        for at in (IMAGES, IMAGES):
            assert len(looking.spans(at)) == count
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    grow_to(64)  # what is imported at the first segment
    tracemalloc.start()
    try:
        first = grow_to(128)
        assert (grow_to(384) - first) / 256 < 3 * 2**10
    finally:
        tracemalloc.stop()
