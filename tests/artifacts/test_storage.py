"""Local storage: exclusive commits, nothing half-written, paths stay inside, one line a fault."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from artifact_builder import files_below

from evalsuite.artifacts.storage import FileEntry, LocalStorage, StoreUrl, file_sha256, place_of
from evalsuite.errors import CorruptionError, StorageError, UsageError


def one_line(caught: pytest.ExceptionInfo[Any], *parts: str) -> None:
    """The error is one line that holds every part."""
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def run_code(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh process that may limit or lower itself."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_the_first_commit_wins(storage: LocalStorage) -> None:
    """The second learns it, changes nothing, and leaves nothing behind."""
    assert storage.commit("receipts/images/a.json", b"first") is True
    assert storage.commit("receipts/images/a.json", b"second") is False
    assert storage.read("receipts/images/a.json") == b"first"
    assert files_below(storage.root) == ["receipts/images/a.json"]


def test_a_new_file_is_new(storage: LocalStorage) -> None:
    """An attempt's file is never overwritten."""
    with storage.create("images/x") as target:
        target.write(b"one")
        target.write(b"two")
    assert target.num_bytes == 6
    assert target.sha256 == file_sha256(storage.path("images/x"))
    with pytest.raises(StorageError, match="File exists"), storage.create("images/x"):
        pass
    assert storage.read("images/x") == b"onetwo"


def write_half(storage: LocalStorage, error: type[BaseException]) -> None:
    """A write that something ends in the middle."""
    with storage.create("images/x") as target:
        target.write(b"half")
        raise error


def test_names_are_flushed_as_bytes_are(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data file, then its folder and those that were made for it; all before its receipt."""
    flushed: list[str] = []
    flush = os.fsync

    def noted(handle: int) -> None:
        flush(handle)
        place = Path(f"/proc/self/fd/{handle}").readlink()
        flushed.append(place.relative_to(storage.root.parent).as_posix())

    monkeypatch.setattr(os, "fsync", noted)
    storage.root.mkdir()
    with storage.create("features/a/x") as target:
        target.write(b"data")
    assert flushed == ["root/features", "root", "root/features/a/x", "root/features/a"]
    flushed.clear()
    with storage.create("features/a/y"):
        pass
    assert flushed == ["root/features/a/y", "root/features/a"]
    flushed.clear()
    assert storage.commit("receipts/r.json", b"{}")
    (first, written, last) = flushed
    assert (first, last) == ("root", "root/receipts")
    assert written.startswith("root/receipts/.r.json.")


def test_a_failed_write_leaves_no_file(storage: LocalStorage) -> None:
    """Whatever passes through: an exception of ours, or Ctrl-C."""
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            write_half(storage, error)
    assert files_below(storage.root) == []


def test_what_failed_first_is_said_where_the_removal_fails_too(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is gone refuses both: the fault may pass, and is retried as such."""

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    storage.root.mkdir(exist_ok=True)
    monkeypatch.setattr(os, "fsync", stale)
    monkeypatch.setattr(Path, "unlink", stale)
    with pytest.raises(StorageError, match="cannot write") as create, storage.create("a") as raw:
        raw.write(b"half")
    with pytest.raises(StorageError, match="cannot write") as replace:
        storage.replace("b", b"whole")
    assert create.value.may_pass
    assert replace.value.may_pass


def test_replace_is_whole(storage: LocalStorage) -> None:
    storage.replace("results/a.json", b"1")
    storage.replace("results/a.json", b"22")
    assert storage.read("results/a.json") == b"22"
    assert files_below(storage.root) == ["results/a.json"]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", ".", "images/.."])
def test_paths_never_leave_the_root(storage: LocalStorage, path: str) -> None:
    """Paths come from receipts, which someone else may have written."""
    storage.check_writable()
    actions = (storage.read, storage.delete, storage.exists, lambda p: storage.commit(p, b""))
    for action in actions:
        with pytest.raises(CorruptionError) as caught:
            action(path)
        one_line(caught, "would leave the run directory")
    with pytest.raises(CorruptionError):
        storage.fault_of(FileEntry(path, 0, "00"))


def test_places_are_paths_or_urls() -> None:
    """`pathlib` would make a folder `s3:` of a URL."""
    assert place_of("runs/a") == Path("runs/a") == place_of(Path("runs/a"))
    url = place_of("s3://bucket//deep/run/")
    assert url == StoreUrl("s3", "bucket", "deep/run") == place_of(url)
    assert (str(url), url.name, str(url / "a/b")) == (
        "s3://bucket/deep/run",
        "run",
        "s3://bucket/deep/run/a/b",
    )
    bucket = place_of("gcs://bucket")
    assert (str(bucket), str(bucket / "a"), bucket.name) == (
        "gs://bucket",
        "gs://bucket/a",
        "bucket",
    )


@pytest.mark.parametrize("text", ["ftp://host/run", "s3://", "s3:///run", "s3://bucket/../x"])
def test_urls_that_are_no_places_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        place_of(text)
    one_line(caught, text, "s3://")


def test_listings(storage: LocalStorage) -> None:
    """Sorted, without temporary files, empty where there is no folder."""
    for name in ("b.json", "a.json", "c.txt"):
        storage.commit(f"receipts/{name}", b"")
    storage.commit("receipts/deep/x.json", b"")
    (storage.root / "receipts" / ".a.json.tmp.json").write_bytes(b"")
    assert storage.names("receipts", ".json") == ["a.json", "b.json"]
    assert storage.folders("receipts") == ["deep"]
    assert storage.names("nothing") == storage.folders("nothing") == []


def test_checked_reading(storage: LocalStorage) -> None:
    """Size, digest and presence; the line says how to repair."""
    with storage.create("images/x") as target:
        target.write(b"0123456789")
    entry = FileEntry("images/x", target.num_bytes, target.sha256)
    assert storage.read_checked(entry) == b"0123456789"
    assert storage.fault_of(entry) is None
    path = storage.path("images/x")
    path.write_bytes(b"012345678X")
    assert "other bytes" in (storage.fault_of(entry) or "")
    with pytest.raises(CorruptionError, match=r"corrupted.*again to repair the run"):
        storage.read_checked(entry)
    path.write_bytes(b"0123")
    assert "has 4 bytes, not 10" in (storage.fault_of(entry) or "")
    path.unlink()
    assert "is missing" in (storage.fault_of(entry) or "")
    with pytest.raises(CorruptionError, match="missing"):
        storage.read_checked(entry)


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError) as caught:
            LocalStorage(root).check_writable()
        one_line(caught, str(root), "a file stands where a directory is needed")


def test_reading_what_is_not_there(storage: LocalStorage) -> None:
    with pytest.raises(StorageError) as caught:
        storage.read("manifest.json")
    one_line(caught, "cannot read", "manifest.json", "No such file")
    storage.delete("manifest.json")  # is no error
    assert not storage.exists("manifest.json")


def test_a_directory_without_permission(tmp_path: Path) -> None:
    """In a process that is not root, whom permissions bind."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    code = (
        "import os, sys\nfrom evalsuite.artifacts.storage import LocalStorage\n"
        "from evalsuite.errors import StorageError\n"
        "os.getuid() == 0 and os.setuid(65534)\n"
        "try: LocalStorage(sys.argv[1]).check_writable()\n"
        "except StorageError as error: print(error)"
    )
    done = run_code(code, str(folder))
    assert done.returncode == 0, done.stderr
    assert "Permission denied: change its permissions, or choose another place" in done.stdout
    assert str(folder) in done.stdout


@pytest.mark.parametrize("action", ["create", "commit", "replace"])
def test_a_file_that_cannot_grow(tmp_path: Path, action: str) -> None:
    """The process's own limit on file sizes, as `ulimit -f` sets it: nothing half-written stays."""
    code = (
        "import resource, sys\nfrom evalsuite.artifacts.storage import LocalStorage\n"
        "from evalsuite.errors import StorageError\n"
        "storage, action, data = LocalStorage(sys.argv[1]), sys.argv[2], bytes(100_000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    if action == 'create':\n"
        "        with storage.create('images/x') as target: target.write(data)\n"
        "    else: getattr(storage, action)('images/x', data)\n"
        "except StorageError as error: print(error)"
    )
    done = run_code(code, str(tmp_path), action)
    assert done.returncode == 0, done.stderr
    assert "File too large: raise the limit on file sizes and run the same" in done.stdout
    assert files_below(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command: the limit on file sizes is tested instead")
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def write_much(storage: LocalStorage, action: str) -> None:
    """300 KiB, in portions where the action takes them."""
    if action != "create":
        getattr(storage, action)("images/x", bytes(300 * 1024))
        return
    with storage.create("images/x") as target:
        for _ in range(300):
            target.write(bytes(1024))


@pytest.mark.parametrize("action", ["create", "commit", "replace"])
def test_a_full_disk(small_disk: Path, action: str) -> None:
    """What was committed stays, and the space of the failed write is given back."""
    storage = LocalStorage(small_disk)
    assert storage.commit("receipts/first.json", b"kept")
    free = storage.free_bytes()
    assert 0 < free <= 256 * 1024
    with pytest.raises(StorageError) as caught:
        write_much(storage, action)
    one_line(caught, "No space left", "free some space and run the same command again")
    assert files_below(small_disk) == ["receipts/first.json"]
    assert storage.read("receipts/first.json") == b"kept"
    assert free - storage.free_bytes() <= 4096  # the folder `images`


def test_a_read_only_disk(small_disk: Path) -> None:
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    assert subprocess.run(remount, capture_output=True, check=False).returncode == 0
    with pytest.raises(StorageError) as caught:
        LocalStorage(small_disk / "run").check_writable()
    one_line(caught, "Read-only file system: make it writable, or choose another place")


def test_check_writable_leaves_nothing(storage: LocalStorage) -> None:
    storage.check_writable()
    assert storage.root.is_dir()
    assert files_below(storage.root) == []


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    """Its nearest parent's."""
    here, there = LocalStorage(tmp_path), LocalStorage(tmp_path / "a" / "b")
    assert abs(here.free_bytes() - there.free_bytes()) < 2**28
    assert not there.root.exists()
