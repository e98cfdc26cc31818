"""A bounded buffer between two threads of a worker: one produces what the other consumes."""

import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from evalsuite.errors import EvalsuiteError

T = TypeVar("T")


_FED: "ContextVar[Channel[Any] | None]" = ContextVar("fed", default=None)
"""What this thread produces for."""


def check_wanted() -> None:
    """Raise Closed when nobody reads any more what this thread makes; for what takes long."""
    channel = _FED.get()
    if channel is not None and channel.is_closed:
        raise Closed


class Closed(Exception):  # noqa: N818 - a signal between two threads
    """The consumer gave up; the producer should stop."""


class NotWantedError(EvalsuiteError):
    """Another worker has committed the shard of this attempt, or has it now."""

    def __init__(self, message: str, num_computed: int = 0) -> None:
        super().__init__(message)
        self.num_computed = num_computed
        """Images that had been computed."""


class Channel(Generic[T]):
    """One producer, one consumer. A fault on either side reaches the other."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T | None] = deque()
        self._changed = threading.Condition()
        self._abandoned = False
        self._withdrawn = False
        self._fault: BaseException | None = None
        self.num_images = 0
        """That the producer has handed over."""

    @property
    def is_closed(self) -> bool:
        """Whether anything that is put is in vain."""
        return self._abandoned or self._withdrawn

    def put(self, item: T | None) -> None:
        """Hand over an item, waiting while the buffer is full; None ends the stream.

        Raises:
            Closed: the consumer has given up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_closed or item is None or self._has_room())
            if self.is_closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def fail(self, fault: BaseException) -> None:
        """End the stream with a fault, which the consumer raises after the items before it."""
        with self._changed:
            self._fault = fault
            self._items.append(None)
            self._changed.notify_all()

    @contextmanager
    def feeding(self) -> Generator[None]:
        """Around all that the producer does: its end, or its fault, ends the stream.

        A fault goes to the consumer, which raises it; a consumer that gave up ends the block.
        """
        before = _FED.set(self)
        try:
            yield
            self.put(None)
        except Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: the consumer raises it
            self.fail(error)
        finally:
            _FED.reset(before)

    def withdraw(self) -> None:
        """End the stream for both sides, from a third thread: the items are not wanted."""
        with self._changed:
            self._withdrawn = True
            self._items.clear()
            self._changed.notify_all()

    def abandon(self) -> None:
        """Tell the producer that nobody reads any more, and let go of what it made."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Items until the end of the stream.

        Raises:
            NotWantedError: the stream was withdrawn.
            BaseException: the producer's fault.
        """
        while (item := self._take()) is not None:
            yield item
        if self._fault is not None:
            raise self._fault

    def _has_room(self) -> bool:
        return len(self._items) < self._capacity

    def _take(self) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._withdrawn)
            if self._withdrawn:
                raise NotWantedError("another worker has the shard", self.num_images)
            item = self._items.popleft()
            self._changed.notify_all()
            return item
