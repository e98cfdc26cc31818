"""A bounded buffer between two threads of a worker: one produces what the other consumes."""

import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - a signal between two threads
    """The consumer gave up; the producer should stop."""


class Channel(Generic[T]):
    """One producer, one consumer. A fault on either side reaches the other."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T | None] = deque()
        self._changed = threading.Condition()
        self._abandoned = False
        self._fault: BaseException | None = None

    def put(self, item: T | None) -> None:
        """Hand over an item, waiting while the buffer is full; None ends the stream, at once.

        Raises:
            Closed: the consumer has given up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or item is None or self._has_room())
            if self._abandoned:
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
        try:
            yield
            self.put(None)
        except Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: the consumer raises it
            self.fail(error)

    def abandon(self) -> None:
        """Tell the producer that nobody reads any more, and let go of what it made."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Items until the end of the stream; raises the producer's fault."""
        while (item := self._take()) is not None:
            yield item
        if self._fault is not None:
            raise self._fault

    def _has_room(self) -> bool:
        return len(self._items) < self._capacity

    def _take(self) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            item = self._items.popleft()
            self._changed.notify_all()
            return item
