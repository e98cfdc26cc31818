"""Durable files under one root: new files, exclusive commits, replacements, listings.

The one seam between evalsuite and a file system. Operating-system errors become one line each.
Paths are relative to the root, with `/`.
"""

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from evalsuite.errors import CorruptionError, StorageError

_AGAIN = " and run the same command again; what was committed stays"


class FileEntry(NamedTuple):
    """A data file as a receipt names it."""

    path: str
    num_bytes: int
    sha256: str


class Stamp(NamedTuple):
    """A file as a listing tells it from other versions of itself, without being opened."""

    num_bytes: int
    version: str
    """Equal for equal bytes only: of a file system its times, of an object store its ETag."""
    modified_ns: int
    """When its bytes were written; a copy may carry the time of its source."""
    changed_ns: int
    """When the file became what it is; nobody can set it back. Nanoseconds since 1970."""


class HashingWriter:
    """A write-only file that hashes what passes; sequential, so that any store can take it.

    A write that fails is a StorageError that names `path`, whoever is writing.
    """

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        self._raw = raw
        self._path = path
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        self._digest.update(data)
        with explained(self._path, "write"):
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


class Storage:
    """Files below a local directory (or a network file system that is mounted)."""

    def __init__(self, root: Path | str) -> None:
        text = str(root)
        if "://" in text:
            raise StorageError(
                f"{text}: this version writes to mounted file systems only; give a local path"
            )
        self.root = Path(text)

    def path(self, relative: str) -> Path:
        """The absolute or root-relative path of a file; it never leaves the root.

        Raises:
            CorruptionError: `relative` would leave the root.
        """
        parts = Path(relative).parts
        if not parts or Path(relative).is_absolute() or ".." in parts:
            raise CorruptionError(f"{self.root}: path {relative!r} would leave the run directory")
        return self.root / relative

    @contextlib.contextmanager
    def create(self, relative: str) -> Iterator[HashingWriter]:
        """Write a new file; it is flushed to the disk at the end, and removed if anything fails."""
        path = self.path(relative)
        with explained(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = path.open("xb")
        try:
            with explained(path, "write"), raw:
                writer = HashingWriter(raw, path)
                yield writer
                raw.flush()
                os.fsync(raw.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def commit(self, relative: str, content: bytes) -> bool:
        """Create `relative` exclusively and whole; False when it already exists.

        The content appears at once, by a hard link, or not at all.
        """
        path = self.path(relative)
        with explained(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._write_aside(path, content)
            try:
                os.link(temporary, path)
            except FileExistsError:
                # NFS: a repeated request meets the link that its lost answer made
                return temporary.samefile(path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it stands: others may have seen it
                _sync_directory(path.parent)
        return True

    def replace(self, relative: str, content: bytes) -> None:
        """Write `relative` whole, in place of an older version."""
        path = self.path(relative)
        with explained(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._write_aside(path, content)
            try:
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def read(self, relative: str) -> bytes:
        """All bytes of a file."""
        path = self.path(relative)
        with explained(path, "read"):
            return path.read_bytes()

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        path = self.path(relative)
        with explained(path, "read"):
            return path.is_file()

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted; none when it does not exist."""
        path = self.path(folder)
        with explained(path, "read"):
            if not path.is_dir():
                return []
            return sorted(
                entry.name
                for entry in path.iterdir()
                if entry.name.endswith(suffix) and not entry.name.startswith(".")
            )

    def stamps(self, folder: str, suffix: str = "") -> dict[str, Stamp]:
        """As `names`, with what tells a file from other versions of it; one listing, no opens."""
        path = self.path(folder)
        found = {}
        with explained(path, "read"):
            if not path.is_dir():
                return {}
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.endswith(suffix):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        found[entry.name] = _stamp_of(entry.stat())
        return dict(sorted(found.items()))

    def visible(self, folder: str) -> list[str]:
        """Names of all files and folders directly in `folder` ("" is the root), but hidden ones."""
        path = self.path(folder) if folder else self.root
        with explained(path, "read"):
            return sorted(e.name for e in path.iterdir() if not e.name.startswith("."))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted."""
        path = self.path(folder)
        with explained(path, "read"):
            return sorted(e.name for e in path.iterdir() if e.is_dir()) if path.is_dir() else []

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None when it is not there."""
        path = self.path(relative)
        with explained(path, "read"):
            return path.stat().st_size if path.is_file() else None

    def move(self, relative: str, target: str) -> bool:
        """Rename a file, replacing `target`; False when it is not there."""
        source, destination = self.path(relative), self.path(target)
        with explained(destination, "write"):
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                source.rename(destination)
            except FileNotFoundError:
                return False
        return True

    def delete(self, relative: str) -> None:
        """Remove a file if it is there."""
        path = self.path(relative)
        with explained(path, "remove"):
            path.unlink(missing_ok=True)

    def fault_of(self, entry: FileEntry) -> str | None:
        """What is wrong with a committed file, or None when its bytes are the recorded ones."""
        path = self.path(entry.path)
        with explained(path, "read"):
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != entry.num_bytes:
                return f"{path} has {path.stat().st_size} bytes, not {entry.num_bytes}"
            if file_sha256(path) != entry.sha256:
                return f"{path} has other bytes than its receipt names (SHA-256 differs)"
        return None

    def read_checked(self, entry: FileEntry) -> bytes:
        """All bytes of a committed file.

        Raises:
            CorruptionError: the bytes are not the recorded ones.
        """
        path = self.path(entry.path)
        if not self.exists(entry.path):
            raise CorruptionError(
                f"{path} is missing: run the same command again to repair the run"
            )
        content = self.read(entry.path)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise CorruptionError(
                f"{path} is corrupted (its SHA-256 is not the receipt's):"
                " run the same command again to repair the run"
            )
        return content

    def check_writable(self) -> None:
        """Make the root and write one byte below it.

        Raises:
            StorageError: it cannot be made or written.
        """
        with explained(self.root, "write to"):
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"0")
            probe.unlink()

    def free_bytes(self) -> int:
        """Free space of the file system that holds the root, or its nearest existing parent."""
        path = self.root.absolute()
        while not path.exists():
            path = path.parent
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def _write_aside(self, path: Path, content: bytes) -> Path:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as raw:
                raw.write(content)
                raw.flush()
                os.fsync(raw.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


@contextlib.contextmanager
def explained(path: Path, verb: str) -> Iterator[None]:
    """Turn an operating-system error into one line that says what to do."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: f": free some space{_AGAIN}",
            errno.EDQUOT: f": free some quota{_AGAIN}",
            errno.EFBIG: f": raise the limit on file sizes{_AGAIN}",
            errno.EACCES: ": choose another --output or change its permissions",
            errno.EROFS: ": choose another --output",
            errno.ENOTDIR: ": a file stands where a directory is needed",
            errno.EEXIST: ": a file stands where a directory is needed",
        }
        reason = error.strerror or str(error)
        hint = hints.get(error.errno or 0, "")
        raise StorageError(f"cannot {verb} {path}: {reason}{hint}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in portions."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _stamp_of(stat: os.stat_result) -> Stamp:
    changed = max(stat.st_ctime_ns, stat.st_mtime_ns)
    version = f"{stat.st_mtime_ns:x}.{stat.st_ctime_ns:x}"
    return Stamp(stat.st_size, version, stat.st_mtime_ns, changed)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
