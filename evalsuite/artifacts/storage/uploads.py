"""Writing objects: whole and exclusively, in one request or in parts."""

import contextlib
from collections.abc import Iterator

from evalsuite.artifacts.storage.clients import (
    ABORT_S,
    AlreadyThere,
    ObjectClient,
    Part,
    Patience,
    StoreRefusal,
    UploadIsGone,
)
from evalsuite.artifacts.storage.places import StoreUrl
from evalsuite.errors import StorageError

_AGAIN = "run the same command again; what was committed stays"


class Upload:
    """Bytes that go up in parts; a file of one part goes up at once, at the end."""

    def __init__(
        self, client: ObjectClient, patience: Patience, url: StoreUrl, part_bytes: int
    ) -> None:
        self._client, self._patience = client, patience
        self._url, self._part_bytes = url, part_bytes
        self._held = bytearray()
        self._id: str | None = None
        self._parts: list[str] = []
        self._num_bytes = 0
        self._ended = False

    def write(self, data: bytes) -> None:
        """Take all of `data`, and hand in the parts that are full."""
        if self._ended:
            raise StorageError(f"cannot write {self._url}: it is closed")
        view = memoryview(data).cast("B")
        self._num_bytes += len(view)
        while len(view):
            room = self._part_bytes - len(self._held)
            self._held += view[:room]
            view = view[room:]
            if len(self._held) == self._part_bytes:
                self._hand_in()

    def flush(self) -> None:
        """Nothing is there before the end."""

    def finish(self) -> None:
        """Make the object.

        Raises:
            StorageError: the store refuses, or has an object of that name.
        """
        self._ended = True
        with told(self._url, "write"):
            if self._id is None:
                content = bytes(self._held)
                if not put_new(self._client, self._patience, self._url.key, content):
                    raise StorageError(f"cannot write {self._url}: File exists")
                return
            if self._held:
                self._hand_in(is_last=True)
            self._complete(self._id)

    def abort(self) -> None:
        """Leave nothing: no object, and no parts."""
        self._ended = True
        self._held.clear()
        if self._id is not None:
            upload_id, self._id = self._id, None
            brief = Patience(longest_s=ABORT_S)
            with contextlib.suppress(StoreRefusal):  # `gc` finds what a lost store keeps
                brief.ask(lambda: self._client.abort_upload(self._url.key, upload_id))

    def _hand_in(self, *, is_last: bool = False) -> None:
        key, number = self._url.key, len(self._parts) + 1
        part = Part(number, (number - 1) * self._part_bytes, bytes(self._held), is_last)
        self._held.clear()
        with told(self._url, "write"):
            if self._id is None:
                self._id = self._patience.ask(lambda: self._client.begin_upload(key))
            upload_id = self._id
            self._parts.append(
                self._patience.ask(lambda: self._client.upload_part(key, upload_id, part))
            )

    def _complete(self, upload_id: str) -> None:
        """Complete it; a lost answer is one whose object has come to be with our size."""
        key = self._url.key
        try:
            self._patience.ask(lambda: self._client.complete_upload(key, upload_id, self._parts))
        except (AlreadyThere, UploadIsGone) as refusal:
            there = self._patience.ask(lambda: self._client.num_bytes(key))
            if there != self._num_bytes:
                text = "File exists" if isinstance(refusal, AlreadyThere) else refusal.reason
                raise StorageError(f"cannot write {self._url}: {text}") from refusal
        self._id = None


def put_new(client: ObjectClient, patience: Patience, key: str, content: bytes) -> bool:
    """Create an object exclusively; False when another one is there.

    A try whose answer was lost may have made it: the next one meets its own object then. Nor do we
    know of every try, for aiohttp repeats a PUT when a kept connection turns out to be closed.
    """
    try:
        patience.ask(lambda: client.put(key, content, exclusive=True))
    except AlreadyThere:
        return patience.ask(lambda: client.get(key)) == content
    return True


@contextlib.contextmanager
def told(url: StoreUrl, verb: str) -> Iterator[None]:
    """Turn a refusal into one line."""
    try:
        yield
    except StoreRefusal as refusal:
        again = f"; {_AGAIN}" if refusal.is_transient else ""
        failure = StorageError(f"cannot {verb} {url}: {refusal.reason}{again}")
        failure.may_pass = refusal.is_transient
        raise failure from refusal
