"""Digests of large files, computed once on each machine.

Eight workers of a node would each read a checkpoint of gigabytes only to hash it. A stamp in the
user's cache remembers the digest of a file for as long as its inode, size and times stay.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from evalsuite.artifacts.storage import explained, file_sha256
from evalsuite.config import canonical_json

_WORTH_A_STAMP = 2**24  # bytes; smaller files are hashed each time


def cache_root() -> Path:
    """Where this machine keeps what can be made again: EVALSUITE_CACHE, or the user's cache."""
    given = os.environ.get("EVALSUITE_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "evalsuite"


def known_sha256(path: Path) -> str:
    """SHA-256 of a file; of several processes one reads it while the others wait.

    Raises:
        StorageError: the file cannot be read. A cache that cannot be written is no error.
    """
    with explained(path, "read"):
        about = path.stat()
    if about.st_size < _WORTH_A_STAMP:
        return file_sha256(path)
    identity = (
        str(path.resolve()),
        about.st_dev,
        about.st_ino,
        about.st_size,
        about.st_mtime_ns,
        about.st_ctime_ns,
    )
    name = hashlib.sha256(canonical_json(identity)).hexdigest()
    with _locked(cache_root() / "digests" / name) as stamp:
        if stamp is None:
            return file_sha256(path)
        known = os.pread(stamp, 64, 0).decode("ascii", "replace")
        if len(known) == 64:
            return known
        digest = file_sha256(path)
        os.pwrite(stamp, digest.encode(), 0)
        return digest


def git_blob_of(path: Path) -> str:
    """What git calls the content of a small file: for those that are published in git alone.

    Raises:
        StorageError: the file cannot be read.
    """
    with explained(path, "read"):
        content = path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def combined_sha256(files: dict[str, str]) -> str:
    """One digest for files by name; that of the file itself when there is one alone."""
    if len(files) == 1:
        return next(iter(files.values()))
    return hashlib.sha256(canonical_json(files)).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """The open file under an exclusive lock; None where the cache cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield None
        return
    try:
        with contextlib.suppress(OSError):  # a cache on a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
