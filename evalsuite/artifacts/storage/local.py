"""Files of a local directory, or of a network file system that is mounted."""

import contextlib
import errno
import hashlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from evalsuite.artifacts.storage.base import (
    HashingWriter,
    Listed,
    Stamp,
    Storage,
    explained,
    inside,
)

_PORTION_BYTES = 8 * 2**20
_NO_SUCH_THING = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""What a file system says that cannot flush directories."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system says that has no hard links, such as exFAT."""


class LocalStorage(Storage):
    """Files below a local directory (or a network file system that is mounted)."""

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root)

    @property
    def root(self) -> Path:
        """The directory, which need not exist yet."""
        return self._root

    def path(self, relative: str) -> Path:
        """The absolute or root-relative path of a file; it never leaves the root.

        Raises:
            CorruptionError: `relative` would leave the root.
        """
        return self.root / inside(relative, self.root)

    @contextlib.contextmanager
    def create(self, relative: str) -> Iterator[HashingWriter]:
        """Write a new file; it is flushed to the disk at the end, and removed if anything fails.

        So is its name: a receipt must not outlive a power cut that its data file does not.
        """
        path = self.path(relative)
        with explained(path, "write"):
            _make_folder(path.parent)
            raw = path.open("xb")
        try:
            with explained(path, "write"), raw:
                writer = HashingWriter(raw, path)
                yield writer
                raw.flush()
                os.fsync(raw.fileno())
                _sync_directory(path.parent)
        except BaseException:
            _remove_if_possible(path)
            raise

    def commit(self, relative: str, content: bytes) -> bool:
        """Create `relative` exclusively and whole; False when it already exists.

        The content appears at once, by a hard link, or not at all.
        """
        path = self.path(relative)
        with explained(path, "write"):
            _make_folder(path.parent)
            return _named_once(self._write_aside(path, content), path)

    def replace(self, relative: str, content: bytes) -> None:
        """Write `relative` whole, in place of an older version."""
        path = self.path(relative)
        with explained(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._write_aside(path, content)
            try:
                temporary.replace(path)
            except BaseException:
                _remove_if_possible(temporary)
                raise

    def read(self, relative: str) -> bytes:
        """All bytes of a file."""
        path = self.path(relative)
        with explained(path, "read"):
            return path.read_bytes()

    def find(self, relative: str) -> bytes | None:
        """All bytes of a file; None when it is not there."""
        path = self.path(relative)
        with explained(path, "read"):
            return path.read_bytes() if path.is_file() else None

    def portions(self, relative: str, num_bytes: int) -> Iterator[bytes]:  # noqa: ARG002 - it ends
        """A file of so many bytes, in portions of 8 MiB."""
        path = self.path(relative)
        with explained(path, "read"), path.open("rb") as raw:
            while portion := raw.read(_PORTION_BYTES):
                yield portion

    def part(self, relative: str, start: int, stop: int) -> bytes:
        """Bytes start..stop-1 of a file, fewer where it ends before."""
        path = self.path(relative)
        with explained(path, "read"), path.open("rb") as raw:
            raw.seek(start)
            return raw.read(stop - start)

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
        """Names of all files and folders directly in `folder` ("" is the root), but hidden ones.

        None when there is no such folder.
        """
        path = self.path(folder) if folder else self.root
        with explained(path, "read"):
            try:
                return sorted(e.name for e in path.iterdir() if not e.name.startswith("."))
            except FileNotFoundError:
                return []

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted."""
        path = self.path(folder)
        with explained(path, "read"):
            return sorted(e.name for e in path.iterdir() if e.is_dir()) if path.is_dir() else []

    def listing(self, folder: str = "") -> Iterator[Listed]:
        """Every file below `folder` ("" is the root), hidden ones too, sorted by path."""
        top = self.path(folder) if folder else self.root
        with explained(top, "read"):
            found = sorted(path for path in top.rglob("*") if path.is_file())
        for path in found:
            with explained(path, "read"):
                try:
                    about = path.stat()
                except FileNotFoundError:  # a temporary file that was there a moment ago
                    continue
            yield Listed(path.relative_to(self.root).as_posix(), about.st_size, about.st_mtime)

    def listed(self, relative: str) -> Listed | None:
        """One file as a listing shows it; None when it is not there."""
        path = self.path(relative)
        with explained(path, "read"):
            about = path.stat() if path.is_file() else None
        return None if about is None else Listed(relative, about.st_size, about.st_mtime)

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None when it is not there."""
        path = self.path(relative)
        with explained(path, "read"):
            return path.stat().st_size if path.is_file() else None

    def publish(self, relative: str, target: str) -> bool:
        """Give a file that is whole its name, exclusively; False when `target` already exists.

        Either way it is gone from where it was. On a disk without hard links the name is taken by
        an empty file first, which others may see for a moment.
        """
        path = self.path(target)
        with explained(path, "write"):
            return _named_once(self.path(relative), path, _link_or_move)

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

    def free_bytes(self) -> int | None:
        """Free space of the file system that holds the root, or its nearest existing parent.

        None of one that has no blocks at all, such as /proc.
        """
        path = self.root.absolute()
        while not path.exists():
            path = path.parent
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize if stat.f_blocks else None

    def _write_aside(self, path: Path, content: bytes) -> Path:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as raw:
                raw.write(content)
                raw.flush()
                os.fsync(raw.fileno())
        except BaseException:
            _remove_if_possible(temporary)
            raise
        return temporary


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in portions."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _named_once(temporary: Path, path: Path, name: Callable[[Path, Path], None] = os.link) -> bool:
    """Move a file to a name that does not exist yet, by a hard link; False when it does."""
    try:
        name(temporary, path)
    except FileExistsError:
        # NFS: a repeated request meets the link that its lost answer made
        return temporary.samefile(path)
    finally:
        _remove_if_possible(temporary)
    with contextlib.suppress(OSError):  # it stands: others may have seen it
        _sync_directory(path.parent)
    return True


def _link_or_move(temporary: Path, path: Path) -> None:
    """Give a file a name that does not exist yet, on a disk without hard links too.

    Raises:
        FileExistsError: it does.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.touch(exist_ok=False)
        try:
            temporary.replace(path)
        except BaseException:
            _remove_if_possible(path)
            raise


def _stamp_of(stat: os.stat_result) -> Stamp:
    changed = max(stat.st_ctime_ns, stat.st_mtime_ns)
    version = f"{stat.st_mtime_ns:x}.{stat.st_ctime_ns:x}"
    return Stamp(stat.st_size, version, stat.st_mtime_ns, changed)


def _remove_if_possible(path: Path) -> None:
    """Remove a file that is not wanted; where that fails too, what failed first is what is said."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, durably."""
    missing = list(itertools.takewhile(lambda folder: not folder.is_dir(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync_directory(folder.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:
            raise
    finally:
        os.close(handle)
