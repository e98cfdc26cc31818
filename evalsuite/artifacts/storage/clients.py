"""What `ObjectStorage` needs of an object store's client, and how long a request is tried.

A client speaks of objects of one bucket by their keys. It raises `StoreRefusal` for what a store,
or the way to it, says no to; nothing here knows which store it is.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")

PART_BYTES = 16 * 2**20
"""A multipart upload holds this much in memory; stores take 10,000 parts, so files of 160 GB."""
CONNECT_S, READ_S = 5.0, 60.0
"""Longest waits for a connection, and for the next bytes of an answer."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
"""Between the tries of a request; each wait is twice the one before, and varied by a quarter."""
PATIENCE_S = 120.0
"""How long a request is tried at a store that has answered before ..."""
FIRST_PATIENCE_S = 6.0
"""... and at an address that never did."""

AT_ONCE = 16
"""Small files that are read at the same time."""
ABORT_S = 10.0
"""How long the parts of a failed upload are tried to be taken away."""


class StoreRefusal(Exception):  # noqa: N818 - not always an error: a lost race is one
    """A request that was not carried out.

    Attributes:
        reason: a clause for a person: what is wrong, and what to do.
        is_transient: the same request may succeed in a moment.
        is_unreachable: nothing answered.
    """

    def __init__(
        self, reason: str, *, is_transient: bool = False, is_unreachable: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_transient = is_transient or is_unreachable
        self.is_unreachable = is_unreachable


class AlreadyThere(StoreRefusal):
    """An exclusive write met an object of that key."""

    def __init__(self) -> None:
        super().__init__("it exists already")


class UploadIsGone(StoreRefusal):
    """A multipart upload that was completed or aborted before."""

    def __init__(self) -> None:
        super().__init__("the unfinished upload was aborted by someone else")


class StoredObject(NamedTuple):
    """One line of a listing."""

    key: str
    num_bytes: int
    modified_at: float
    version: str
    """Changes with the bytes: the ETag, or the generation."""


class Page(NamedTuple):
    """One answer of a listing: objects, and `folders` (keys that end in a slash) if it is flat."""

    objects: list[StoredObject]
    folders: list[str]


class Part(NamedTuple):
    """A piece of an object."""

    number: int
    """From 1."""
    offset: int
    """Bytes before it."""
    content: bytes
    is_last: bool


class Unfinished(NamedTuple):
    """A multipart upload that nobody completed or aborted yet."""

    key: str
    upload_id: str
    begun_at: float


class ObjectClient(Protocol):
    """Requests to one bucket; each is one try, and may be asked from any thread.

    Raises:
        StoreRefusal: by any of them.
    """

    def put(self, key: str, content: bytes, *, exclusive: bool) -> None:
        """Write an object whole; AlreadyThere when it is to be new and is not."""
        ...

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes start..stop-1 of an object, or to its end; None when it is not there."""
        ...

    def num_bytes(self, key: str) -> int | None:
        """The size of an object; None when it is not there."""
        ...

    def pages(self, prefix: str, *, flat: bool) -> Iterator[Callable[[], Page]]:
        """Requests for the pages of a listing, in the order of keys.

        Args:
            prefix: of the keys.
            flat: give what lies deeper than the next slash as folders.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        ...

    def copy(self, key: str, target: str) -> bool:
        """Copy an object within the store; False when it is not there."""
        ...

    def begin_upload(self, key: str) -> str:
        """Begin an object that comes in parts; gives the upload's id. Nothing is visible yet."""
        ...

    def upload_part(self, key: str, upload_id: str, part: Part) -> str:
        """Hand in one part; gives what `complete_upload` names it by."""
        ...

    def complete_upload(self, key: str, upload_id: str, parts: list[str]) -> None:
        """Make the object of all its parts, exclusively."""
        ...

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Give an upload up; what was handed in is removed."""
        ...

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """Uploads that were begun below a prefix and neither completed nor aborted."""
        ...


class Patience:
    """Tries requests again as long as that is sensible."""

    def __init__(self, longest_s: float = PATIENCE_S, first_s: float = FIRST_PATIENCE_S) -> None:
        self._longest_s, self._first_s = longest_s, first_s
        self._reached = False

    def ask(self, request: Callable[[], T]) -> T:
        """The answer to `request`, which is repeated while its refusal is transient.

        Raises:
            StoreRefusal: the last one.
        """
        began, wait_s = time.monotonic(), FIRST_WAIT_S
        while True:
            try:
                answer = request()
            except StoreRefusal as refusal:
                self._reached = self._reached or not refusal.is_unreachable
                limit_s = self._longest_s if self._reached else self._first_s
                if not refusal.is_transient or time.monotonic() - began + wait_s > limit_s:
                    raise
            else:
                self._reached = True
                return answer
            time.sleep(wait_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
