"""What every store offers: new files, exclusive commits, replacements, listings.

The one seam between evalsuite and a file system or object store. Their errors become one line each.
Paths are relative to the root, with `/`.
"""

import contextlib
import errno
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

from evalsuite.artifacts.storage.places import Place
from evalsuite.errors import CorruptionError, StorageError

REPAIR = "run the same `evalsuite run` or `generate` again to repair the run"
_AGAIN = " and run the same command again; what was committed stays"


class FileEntry(NamedTuple):
    """A data file as a receipt names it."""

    path: str
    num_bytes: int
    sha256: str


class Listed(NamedTuple):
    """A file as a listing shows it."""

    path: str
    """Relative to the root of the storage."""
    num_bytes: int
    modified_at: float
    """Seconds since 1970, by the clock of the store."""


class Stamp(NamedTuple):
    """A file as a listing tells it from other versions of itself, without being opened."""

    num_bytes: int
    version: str
    """Equal for equal bytes only: of a file system its times, of an object store its ETag."""
    modified_ns: int
    """When its bytes were written; a copy may carry the time of its source."""
    changed_ns: int
    """When the file became what it is; nobody can set it back. Nanoseconds since 1970."""


class Target(Protocol):
    """Takes bytes one after the other."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`."""
        ...

    def flush(self) -> object:
        """Hand on what is held."""
        ...


class HashingWriter:
    """A write-only file that hashes what passes; sequential, so that any store can take it.

    A write that fails is a StorageError that names `place`, whoever is writing.
    """

    def __init__(self, raw: Target, place: Place) -> None:
        self._raw = raw
        self._place = place
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        self._digest.update(data)
        with explained(self._place, "write"):
            self._raw.write(data)
        size = memoryview(data).nbytes
        self.num_bytes += size
        return size

    def flush(self) -> None:
        """Flush to the operating system."""
        self._raw.flush()

    def tell(self) -> int:
        """Bytes written so far."""
        return self.num_bytes

    def close(self) -> None:
        """Mark as closed; the storage closes the file."""
        self.closed = True

    def readable(self) -> bool:
        """Never."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Never."""
        return False

    @property
    def sha256(self) -> str:
        """Of everything written so far."""
        return self._digest.hexdigest()


class Storage(ABC):
    """Files below one root."""

    @property
    @abstractmethod
    def root(self) -> Place:
        """Where the files lie."""

    def path(self, relative: str) -> Place:
        """Where a file lies; it never leaves the root.

        Raises:
            CorruptionError: `relative` would leave the root.
        """
        return self.root / inside(relative, self.root)

    @abstractmethod
    def create(self, relative: str) -> contextlib.AbstractContextManager[HashingWriter]:
        """Write a new file; it is durable at the end, and not there if anything fails."""

    @abstractmethod
    def commit(self, relative: str, content: bytes) -> bool:
        """Create `relative` exclusively and whole; False when it already exists.

        A store may take a file of the very same content for one that this call has made.
        """

    @abstractmethod
    def replace(self, relative: str, content: bytes) -> None:
        """Write `relative` whole, in place of an older version."""

    @abstractmethod
    def read(self, relative: str) -> bytes:
        """All bytes of a file."""

    @abstractmethod
    def find(self, relative: str) -> bytes | None:
        """All bytes of a file; None when it is not there."""

    @abstractmethod
    def portions(self, relative: str, num_bytes: int) -> Iterator[bytes]:
        """A file of so many bytes, in portions that fit into memory."""

    @abstractmethod
    def part(self, relative: str, start: int, stop: int) -> bytes:
        """Bytes start..stop-1 of a file, fewer where it ends before."""

    def contents(self, paths: Iterable[str]) -> Iterator[bytes]:
        """All bytes of each file, in order; a store is asked for several at a time."""
        return map(self.read, paths)

    @abstractmethod
    def listed(self, relative: str) -> Listed | None:
        """One file as a listing shows it; None when it is not there."""

    @abstractmethod
    def size(self, relative: str) -> int | None:
        """Bytes of a file; None when it is not there."""

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        return self.size(relative) is not None

    @abstractmethod
    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted; none when it does not exist."""

    @abstractmethod
    def stamps(self, folder: str, suffix: str = "") -> dict[str, Stamp]:
        """As `names`, with what tells a file from other versions of it; one listing, no opens."""

    @abstractmethod
    def visible(self, folder: str) -> list[str]:
        """Names of all files and folders directly in `folder` ("" is the root), but hidden ones.

        None when there is no such folder.
        """

    @abstractmethod
    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted."""

    @abstractmethod
    def listing(self, folder: str = "") -> Iterator[Listed]:
        """Every file below `folder` ("" is the root), hidden ones too, sorted by path."""

    @abstractmethod
    def move(self, relative: str, target: str) -> bool:
        """Put a file at `target`, replacing what is there; False when it is not there."""

    @abstractmethod
    def delete(self, relative: str) -> None:
        """Remove a file if it is there."""

    def fault_of(self, entry: FileEntry) -> str | None:
        """What is wrong with a committed file, or None when its bytes are the recorded ones."""
        place, num_bytes = self.path(entry.path), self.size(entry.path)
        fault = size_fault(place, num_bytes, entry)
        if fault is not None:
            return fault
        digest = hashlib.sha256()
        for portion in self.portions(entry.path, entry.num_bytes):
            digest.update(portion)
        return digest_fault(place, digest.hexdigest(), entry)

    def read_checked(self, entry: FileEntry) -> bytes:
        """All bytes of a committed file.

        Raises:
            CorruptionError: the bytes are not the recorded ones.
        """
        path = self.path(entry.path)
        content = self.find(entry.path)
        if content is None:
            raise CorruptionError(f"{path} is missing: {REPAIR}")
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise CorruptionError(
                f"{path} is corrupted (its SHA-256 is not the receipt's): {REPAIR}"
            )
        return content

    def unfinished(self, older_than_s: float = 0.0) -> list[str]:  # noqa: ARG002 - a disk has none
        """Files that somebody began to write and that nobody sees, where a store keeps such."""
        return []

    def abort_unfinished(self, older_than_s: float = 0.0) -> None:  # noqa: B027 - likewise
        """Take away what `unfinished` names."""

    @abstractmethod
    def check_writable(self) -> None:
        """Make the root and write one byte below it.

        Raises:
            StorageError: it cannot be made or written.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space where the root is, or will be; None when there is no such limit."""


def inside(relative: str, root: Place) -> str:
    """`relative` in its plain form, when it names something below the root.

    Raises:
        CorruptionError: it would leave the root.
    """
    path = PurePosixPath(relative)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise CorruptionError(f"{root}: path {relative!r} would leave the run directory")
    return path.as_posix()


def size_fault(place: Place, num_bytes: int | None, entry: FileEntry) -> str | None:
    """What the size of a file tells; None when it is the recorded one."""
    if num_bytes is None:
        return f"{place} is missing"
    if num_bytes != entry.num_bytes:
        return f"{place} has {num_bytes} bytes, not {entry.num_bytes}"
    return None


def digest_fault(place: Place, sha256: str, entry: FileEntry) -> str | None:
    """What the digest of a file tells; None when it is the recorded one."""
    if sha256 == entry.sha256:
        return None
    return f"{place} has other bytes than its receipt names (SHA-256 differs)"


@contextlib.contextmanager
def explained(place: Place, verb: str) -> Iterator[None]:
    """Turn an operating-system error into one line that says what to do."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: f": free some space{_AGAIN}",
            errno.EDQUOT: f": free some quota{_AGAIN}",
            errno.EFBIG: f": raise the limit on file sizes{_AGAIN}",
            errno.EACCES: ": change its permissions, or choose another place",
            errno.EROFS: ": make it writable, or choose another place",
            errno.ENOTDIR: ": a file stands where a directory is needed",
            errno.EEXIST: ": a file stands where a directory is needed",
        }
        reason = error.strerror or str(error)
        hint = hints.get(error.errno or 0, "")
        failure = StorageError(f"cannot {verb} {place}: {reason}{hint}")
        failure.may_pass = error.errno in {errno.ESTALE, errno.ETIMEDOUT}  # of a network's disk
        raise failure from error
