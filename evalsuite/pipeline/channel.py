"""A bounded buffer between the thread that computes a shard and the thread that commits it."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.2


class Closed(Exception):  # noqa: N818 - a signal between two threads
    """The reader gave up; the producer should stop."""


class Channel(Generic[T]):
    """One producer, one consumer. A fault on either side reaches the other."""

    def __init__(self, capacity: int) -> None:
        self._queue: queue.Queue[T | None] = queue.Queue(capacity)
        self._abandoned = threading.Event()
        self._fault: BaseException | None = None

    def put(self, item: T | None) -> None:
        """Hand over an item, waiting while the buffer is full; None ends the stream.

        Raises:
            Closed: the consumer has given up.
        """
        while True:
            if self._abandoned.is_set():
                raise Closed
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def fail(self, fault: BaseException) -> None:
        """End the stream with a fault, which the consumer raises."""
        self._fault = fault
        if not self._abandoned.is_set():
            self.put(None)

    def abandon(self) -> None:
        """Tell the producer that nobody reads any more."""
        self._abandoned.set()

    def __iter__(self) -> Iterator[T]:
        """Items until the end of the stream; raises the producer's fault."""
        while (item := self._queue.get()) is not None:
            yield item
        if self._fault is not None:
            raise self._fault
