"""Files are hashed when they may have changed, and only then; sizes always count."""

import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from artifact_builder import make_receipt, write_data

from evalsuite.artifacts import verified
from evalsuite.artifacts.receipts import Receipt, commit_receipt
from evalsuite.artifacts.storage import FileEntry, LocalStorage, Storage
from evalsuite.artifacts.verified import Claim, FileChecker


class Counting(LocalStorage):
    """Notes which files it is asked to hash."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.hashed: list[str] = []

    def fault_of(self, entry: FileEntry) -> str | None:
        self.hashed.append(entry.path)
        return super().fault_of(entry)


@pytest.fixture(autouse=True)
def noted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was hashed is noted, however little and however new."""
    monkeypatch.setattr(verified, "_MANY_FILES", 1)
    monkeypatch.setattr(verified, "_SETTLED_NS", 0)


@pytest.fixture
def receipts(storage: Storage) -> list[Receipt]:
    """Five committed shards."""
    made = []
    for i in range(5):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        receipt = make_receipt(4 * i, 4 * i + 4, created_at=now)
        write_data(storage, receipt)
        commit_receipt(storage, receipt)
        made.append(receipt)
    return made


def check(root: Path, receipts: list[Receipt], *, hash_all: bool = False) -> tuple[list, int]:
    """The faults that a new process finds, and how many files it hashed."""
    storage = Counting(root)
    stamps = storage.stamps("receipts/images", ".json")
    claims = [
        Claim(r.files[0].entry, r.name, stamps[r.name.rpartition("/")[2]], r.created_at)
        for r in receipts
    ]
    faults = FileChecker(storage, hash_all=hash_all).faults(claims)
    return [text for _, text in faults], len(storage.hashed)


def data(storage: Storage, receipt: Receipt) -> Path:
    return Path(storage.path(receipt.files[0].path))


def test_what_was_committed_and_never_touched_is_not_hashed(
    storage: Storage, receipts: list[Receipt]
) -> None:
    """Unless all is asked for."""
    assert check(storage.root, receipts) == ([], 0)
    assert check(storage.root, receipts, hash_all=True) == ([], 5)


def test_changed_bytes_are_found_whatever_the_time_they_carry(
    storage: Storage, receipts: list[Receipt]
) -> None:
    """Shorter, other and missing ones too; each time anew."""
    paths = [data(storage, receipt) for receipt in receipts]
    before = paths[0].stat()
    paths[0].write_bytes(b"dato")
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    paths[1].write_bytes(b"dat")
    paths[2].unlink()
    paths[3].with_name("x").write_bytes(b"xxxx")
    paths[3].with_name("x").replace(paths[3])
    for _ in range(3):
        texts, hashed = check(storage.root, receipts)
        assert ["SHA-256 differs" in text for text in texts] == [True, False, False, True]
        assert "bytes, not" in texts[1]
        assert "is missing" in texts[2]
        assert hashed == 4


def test_a_copy_is_hashed_once(storage: Storage, receipts: list[Receipt], tmp_path: Path) -> None:
    """It carries the times of its source, but was made now; a bad copy is found."""
    good = Path(shutil.copytree(storage.root, tmp_path / "good"))
    bad = Path(shutil.copytree(storage.root, tmp_path / "bad", copy_function=shutil.copyfile))
    (bad / receipts[2].files[0].path).write_bytes(b"DATA")
    time.sleep(1.1)  # receipts tell whole seconds
    for path in (good, bad):
        for file in path.rglob("*.parquet"):
            file.write_bytes(file.read_bytes())
    assert check(good, receipts) == ([], 5)
    assert check(good, receipts) == ([], 0)
    (text,), hashed = check(bad, receipts)
    assert "SHA-256 differs" in text
    assert hashed == 5
    assert check(bad, receipts)[1] == 1
    (good / receipts[0].files[0].path).write_bytes(b"DATA")
    (text,), hashed = check(good, receipts)
    assert "SHA-256 differs" in text
    assert hashed == 1


def test_another_receipt_of_a_verified_file_is_another_claim(
    storage: Storage, receipts: list[Receipt]
) -> None:
    """What was verified is a digest, not a path."""
    data(storage, receipts[0]).write_bytes(b"data")
    assert check(storage.root, receipts[:1]) == ([], 1)
    assert check(storage.root, receipts[:1]) == ([], 0)
    other = receipts[0].files[0].model_copy(update={"sha256": "0" * 64})
    lying = receipts[0].model_copy(update={"files": (other,)})
    (text,), _ = check(storage.root, [lying])
    assert "SHA-256 differs" in text


def test_notes_stay_few_and_may_be_lost(storage: Storage, receipts: list[Receipt]) -> None:
    for i in range(20):
        data(storage, receipts[i % 5]).write_bytes(b"data")
        assert check(storage.root, receipts) == ([], 1)
    assert len(storage.names("ledger/verified")) <= 9
    for name in storage.names("ledger/verified")[:3]:
        Path(storage.path(f"ledger/verified/{name}")).write_bytes(b"x")
    assert check(storage.root, receipts)[0] == []
    shutil.rmtree(storage.path("ledger"))
    assert check(storage.root, receipts)[0] == []
