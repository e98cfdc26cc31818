"""Files as objects of a store below one URL: no folder exists, nothing is renamed.

A data file goes up in parts while it is written, and is there when all of it is; whatever ends the
writing early takes the parts away. Small files that commit something are created on the condition
that there is none of that name. A request that failed on its way is repeated; one that may have
arrived nevertheless meets its own object, which is told from a rival's by its content.
"""

import contextlib
import functools
import itertools
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from evalsuite.artifacts.storage.base import (
    HashingWriter,
    Listed,
    Stamp,
    Storage,
    inside,
)
from evalsuite.artifacts.storage.clients import (
    AT_ONCE,
    PART_BYTES,
    ObjectClient,
    Page,
    Patience,
    Unfinished,
)
from evalsuite.artifacts.storage.places import StoreUrl
from evalsuite.artifacts.storage.uploads import Upload, put_new, told
from evalsuite.errors import StorageError

RANGE_BYTES = 8 * 2**20


class ObjectStorage(Storage):
    """Files below a URL of an object store; its methods may be called from several threads."""

    def __init__(
        self,
        root: StoreUrl,
        client: ObjectClient,
        patience: Patience | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Nothing is asked yet.

        Args:
            root: below which the files lie.
            client: of the root's bucket.
            patience: with requests that fail.
            part_bytes: what an upload holds in memory; at least 5 MiB for S3.
        """
        self._root, self._client = root, client
        self._patience = patience or Patience()
        self._part_bytes = part_bytes

    @property
    def root(self) -> StoreUrl:
        """The URL; there need not be anything below it yet."""
        return self._root

    def path(self, relative: str) -> StoreUrl:
        """The URL of a file; it never leaves the root.

        Raises:
            CorruptionError: `relative` would leave the root.
        """
        return self._root / inside(relative, self._root)

    @contextlib.contextmanager
    def create(self, relative: str) -> Iterator[HashingWriter]:
        """Write a new file; it is there when this ends, and not at all if anything fails."""
        url = self.path(relative)
        upload = Upload(self._client, self._patience, url, self._part_bytes)
        writer = HashingWriter(upload, url)
        try:
            yield writer
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def commit(self, relative: str, content: bytes) -> bool:
        """Create `relative` exclusively and whole; False when it exists with other content."""
        url = self.path(relative)
        with told(url, "write"):
            return put_new(self._client, self._patience, url.key, content)

    def replace(self, relative: str, content: bytes) -> None:
        """Write `relative` whole, in place of an older version."""
        url = self.path(relative)
        with told(url, "write"):
            self._patience.ask(lambda: self._client.put(url.key, content, exclusive=False))

    def read(self, relative: str) -> bytes:
        """All bytes of a file."""
        content = self.find(relative)
        if content is None:
            raise StorageError(f"cannot read {self.path(relative)}: there is no such file")
        return content

    def find(self, relative: str) -> bytes | None:
        """All bytes of a file; None when it is not there."""
        url = self.path(relative)
        with told(url, "read"):
            return self._patience.ask(lambda: self._client.get(url.key))

    def portions(self, relative: str, num_bytes: int) -> Iterator[bytes]:
        """A file of so many bytes, by ranges of 8 MiB."""
        url = self.path(relative)
        for start in range(0, num_bytes, RANGE_BYTES):
            stop = min(start + RANGE_BYTES, num_bytes)
            with told(url, "read"):
                part = self._patience.ask(functools.partial(self._client.get, url.key, start, stop))
            if part is None or len(part) != stop - start:
                raise StorageError(f"cannot read {url}: it was replaced or removed meanwhile")
            yield part

    def part(self, relative: str, start: int, stop: int) -> bytes:
        """Bytes start..stop-1 of a file; it must have them.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        url = self.path(relative)
        with told(url, "read"):
            found = self._patience.ask(lambda: self._client.get(url.key, start, stop))
        if found is None:
            raise StorageError(f"cannot read {url}: there is no such file")
        return found

    def contents(self, paths: Iterable[str]) -> Iterator[bytes]:
        """All bytes of each file, in order, AT_ONCE at a time."""
        asked = iter(paths)
        with ThreadPoolExecutor(AT_ONCE) as team:
            while group := list(itertools.islice(asked, AT_ONCE)):
                yield from team.map(self.read, group)

    def listed(self, relative: str) -> Listed | None:
        """One file as a listing shows it; None when it is not there."""
        url = self.path(relative)
        with told(url, "read"):
            page = self._patience.ask(next(self._client.pages(url.key, flat=True)))
        found = (one for one in page.objects if one.key == url.key)
        one = next(found, None)
        return None if one is None else Listed(relative, one.num_bytes, one.modified_at)

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None when it is not there."""
        url = self.path(relative)
        with told(url, "read"):
            return self._patience.ask(lambda: self._client.num_bytes(url.key))

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted; none when it does not exist."""
        found = (_name(one.key) for page in self._pages(folder, flat=True) for one in page.objects)
        return sorted(
            name for name in found if name.endswith(suffix) and not name.startswith(".") and name
        )

    def stamps(self, folder: str, suffix: str = "") -> dict[str, Stamp]:
        """As `names`, with each object's ETag and time; a request for 1,000 of them."""
        found = {}
        for page in self._pages(folder, flat=True):
            for one in page.objects:
                name = _name(one.key)
                if name and name.endswith(suffix) and not name.startswith("."):
                    at_ns = int(one.modified_at * 1e9)
                    found[name] = Stamp(one.num_bytes, one.version, at_ns, at_ns)
        return dict(sorted(found.items()))

    def visible(self, folder: str) -> list[str]:
        """Names of all files and folders directly in `folder`, but hidden ones."""
        names = {
            _name(key.removesuffix("/"))
            for page in self._pages(folder, flat=True)
            for key in [*(one.key for one in page.objects if one.key[-1] != "/"), *page.folders]
        }
        return sorted(name for name in names if not name.startswith("."))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted."""
        pages = self._pages(folder, flat=True)
        return sorted(_name(key.removesuffix("/")) for page in pages for key in page.folders)

    def listing(self, folder: str = "") -> Iterator[Listed]:
        """Every file below `folder`, hidden ones too, sorted; a request for 1,000 of them."""
        skipped = len(self._root.key) + 1 if self._root.key else 0
        for page in self._pages(folder, flat=False):
            for one in page.objects:
                if not one.key.endswith("/"):  # consoles of stores make such "folders"
                    yield Listed(one.key[skipped:], one.num_bytes, one.modified_at)

    def move(self, relative: str, target: str) -> bool:
        """Copy a file to `target` and remove it: when this ends early, both are there."""
        source, destination = self.path(relative), self.path(target)
        with told(destination, "write"):
            if not self._patience.ask(lambda: self._client.copy(source.key, destination.key)):
                return False
            self._patience.ask(lambda: self._client.delete(source.key))
        return True

    def delete(self, relative: str) -> None:
        """Remove a file if it is there."""
        url = self.path(relative)
        with told(url, "remove"):
            self._patience.ask(lambda: self._client.delete(url.key))

    def check_writable(self) -> None:
        """Write one byte below the root, and remove it.

        Raises:
            StorageError: that is not possible; the line says why.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        self.replace(probe, b"0")
        self.delete(probe)

    def free_bytes(self) -> None:
        """Object stores have no limit that they would tell."""
        return

    def unfinished(self, older_than_s: float = 0.0) -> list[str]:
        """Files whose uploads nobody ended: killed processes leave them, unseen but paid."""
        skipped = len(self._prefix(""))
        return [one.key[skipped:] for one in self._unfinished(older_than_s)]

    def abort_unfinished(self, older_than_s: float = 0.0) -> None:
        """Take away what such uploads have handed in."""
        for one in self._unfinished(older_than_s):
            with told(self._root, "remove unfinished uploads below"):
                self._patience.ask(
                    functools.partial(self._client.abort_upload, one.key, one.upload_id)
                )

    def _unfinished(self, older_than_s: float) -> list[Unfinished]:
        prefix, newest = self._prefix(""), time.time() - older_than_s
        with told(self._root, "list unfinished uploads below"):
            found = self._patience.ask(lambda: self._client.unfinished(prefix))
        return [one for one in found if one.begun_at <= newest]

    def _pages(self, folder: str, *, flat: bool) -> Iterator[Page]:
        prefix = self._prefix(folder)
        with told(self.path(folder) if folder else self._root, "list"):
            for request in self._client.pages(prefix, flat=flat):
                yield self._patience.ask(request)

    def _prefix(self, folder: str) -> str:
        """Of the keys of what lies in a folder; "" for a whole bucket."""
        key = self.path(folder).key if folder else self._root.key
        return f"{key}/" if key else ""


def _name(key: str) -> str:
    return key.rpartition("/")[2]
