"""Receipts: one winner, losers that clean up, other pixels that fail the run, faults by name."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from artifact_builder import files_below, make_plan, make_receipt, write_data
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.artifacts.near import NearReceipts
from evalsuite.artifacts.receipts import (
    Receipt,
    check_same_pixels,
    commit_receipt,
    cover,
    range_name,
    read_receipt,
    read_receipts,
)
from evalsuite.artifacts.run_directory import IMAGES, gaps_of
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.errors import CorruptionError, ReproducibilityError

PLAN_ID = make_plan().plan_id
ROUNDS = 40


def test_a_receipt_reads_back(storage: LocalStorage) -> None:
    receipt = make_receipt(8, 16)
    write_data(storage, receipt)
    assert commit_receipt(storage, receipt) is True
    assert read_receipts(storage, IMAGES, PLAN_ID) == [receipt]
    assert receipt.name == "receipts/images/0000000008-0000000016.json"


def test_the_loser_removes_its_own_files_and_no_others(storage: LocalStorage) -> None:
    """Equal pixels: nothing else happens."""
    winner, loser = make_receipt(0, 4, attempt="w"), make_receipt(0, 4, attempt="l")
    for receipt in (winner, loser):
        write_data(storage, receipt)
    assert commit_receipt(storage, winner) is True
    assert commit_receipt(storage, loser) is False
    assert files_below(storage.root) == sorted([winner.files[0].path, winner.name])
    assert read_receipt(storage, winner.name) == winner


def test_other_pixels_on_equal_numerics_fail_the_run_by_name(storage: LocalStorage) -> None:
    """The winner stays as it is; the loser's files go all the same."""
    winner = make_receipt(0, 4, attempt="w")
    changed = [*winner.pixel_sha256[:2], "0" * 64, winner.pixel_sha256[3]]
    loser = make_receipt(0, 4, attempt="l", pixel_sha256=changed)
    for receipt in (winner, loser):
        write_data(storage, receipt)
    commit_receipt(storage, winner)
    with pytest.raises(ReproducibilityError) as caught:
        commit_receipt(storage, loser)
    assert "sample 2 (1 in all, stage images)" in str(caught.value)
    assert "attempt w" in str(caught.value)
    assert files_below(storage.root) == sorted([winner.files[0].path, winner.name])


def test_other_pixels_on_other_numerics_are_no_fault() -> None:
    """Bits are promised within one numerics_id."""
    ours, theirs = make_receipt(0, 4), make_receipt(0, 4, salt="x", numerics_id="34" * 32)
    check_same_pixels(ours, theirs)
    with pytest.raises(ReproducibilityError, match=r"sample 0 \(4 in all"):
        check_same_pixels(ours, make_receipt(0, 4, salt="x"))


def test_features_are_matched_by_the_digest_of_their_pixels() -> None:
    """Their receipts hold no pixel hashes of their own."""
    ours = make_receipt(0, 4, stage="features/e")
    check_same_pixels(ours, make_receipt(0, 4, stage="features/e"))
    with pytest.raises(ReproducibilityError, match="stage features/e"):
        check_same_pixels(ours, make_receipt(0, 4, stage="features/e", salt="x"))


def race(root: str, attempt: str, barrier: Any, results: Any) -> None:
    """One process: writes and commits range by range, at the same moment as the other."""
    storage, won = LocalStorage(root), 0
    for i in range(ROUNDS):
        receipt = make_receipt(4 * i, 4 * i + 4, attempt=attempt)
        write_data(storage, receipt)
        barrier.wait(30)
        won += commit_receipt(storage, receipt)
    results.put((attempt, won))


def test_two_processes_race_and_exactly_one_wins(tmp_path: Path) -> None:
    """Each time: one receipt, one data file, and it is the winner's."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=race, args=(str(tmp_path), name, barrier, results)) for name in "ab"
    ]
    for worker in workers:
        worker.start()
    won = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert won["a"] + won["b"] == ROUNDS
    storage = LocalStorage(tmp_path)
    receipts = read_receipts(storage, IMAGES, PLAN_ID)
    assert [(r.start, r.stop) for r in receipts] == [(4 * i, 4 * i + 4) for i in range(ROUNDS)]
    named = [r.files[0].path for r in receipts]
    assert sum(r.attempt_id == "a" for r in receipts) == won["a"]
    assert files_below(tmp_path) == sorted([*named, *(r.name for r in receipts)])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b"[]", "receipt"),
        (b"{}", "Field required"),
    ],
)
def test_unreadable_receipts_name_themselves(
    storage: LocalStorage, content: bytes, text: str
) -> None:
    name = f"receipts/images/{range_name(0, 4)}.json"
    storage.commit(name, content)
    with pytest.raises(CorruptionError) as caught:
        read_receipts(storage, IMAGES, PLAN_ID)
    assert text in str(caught.value)
    assert range_name(0, 4) in str(caught.value)
    assert "again, which makes its samples anew" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"plan_id": "cd" * 32}, "belongs to another plan"),
        ({"stop": 8}, "of another range or stage"),
        ({"stage": "pixels"}, "of another range or stage"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"plan_id": "short"}, "plan_id"),
        ({"files": [{"path": "x"}]}, "files.0"),
    ],
)
def test_receipts_that_are_not_their_own(
    storage: LocalStorage, changes: dict[str, Any], text: str
) -> None:
    """Copied, renamed or edited ones."""
    receipt = make_receipt(0, 4)
    content = receipt.model_dump(mode="json") | changes
    storage.commit(receipt.name, json.dumps(content).encode())
    with pytest.raises(CorruptionError) as caught:
        read_receipts(storage, IMAGES, PLAN_ID)
    assert text in str(caught.value)


def test_foreign_files_among_receipts_are_passed_over(storage: LocalStorage) -> None:
    storage.commit("receipts/images/notes.json", b"{}")
    receipt = make_receipt(0, 4)
    storage.commit(receipt.name, receipt.model_dump_json().encode())
    assert read_receipts(storage, IMAGES, PLAN_ID) == [receipt]
    assert NearReceipts(storage, PLAN_ID).receipts(IMAGES, 0, 4) == [receipt]


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=6)


@given(SPANS, st.integers(0, 20), st.integers(0, 25))
def test_cover_takes_each_sample_once_and_all_that_there_is(
    spans: list[tuple[int, int]], start: int, length: int
) -> None:
    """Of any overlapping receipts; the complement is what `gaps_of` says."""
    receipts = [span_receipt(low, low + size) for low, size in spans]
    slices = cover(receipts, start, start + length)
    taken = [i for part in slices for i in range(part.start, part.stop)]
    there = {i for r in receipts for i in range(r.start, r.stop)}
    wanted = set(range(start, start + length))
    assert taken == sorted(there & wanted)
    for part in slices:
        assert part.receipt.start <= part.start < part.stop <= part.receipt.stop
    gaps = gaps_of([(r.start, r.stop) for r in receipts], start, start + length)
    assert [i for low, high in gaps for i in range(low, high)] == sorted(wanted - there)


def span_receipt(start: int, stop: int) -> Receipt:
    """Only the range of it matters, so it is not validated, which is quick."""
    return Receipt.model_construct(start=start, stop=stop)


def test_range_names_sort_as_numbers() -> None:
    """Also beyond ten digits a name is still a receipt's."""
    assert range_name(512, 768) == "0000000512-0000000768"
    assert range_name(9, 10) < range_name(10, 11)
    assert range_name(10**11, 10**11 + 1) == "100000000000-100000000001"
