"""A bounded buffer between the thread that computes a shard and the thread that commits it."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from evalsuite.errors import EvalsuiteError

T = TypeVar("T")
_POLL_S = 0.2


class Closed(Exception):  # noqa: N818 - a signal between two threads
    """The reader gave up; the producer should stop."""


class NotWantedError(EvalsuiteError):
    """Another worker has committed the shard of this attempt, or has it now."""

    def __init__(self, message: str, num_computed: int = 0) -> None:
        super().__init__(message)
        self.num_computed = num_computed
        """Images that had been computed."""


class Channel(Generic[T]):
    """One producer, one consumer. A fault on either side reaches the other."""

    def __init__(self, capacity: int) -> None:
        self._queue: queue.Queue[T | None] = queue.Queue(capacity)
        self._abandoned = threading.Event()
        self._withdrawn = threading.Event()
        self.num_images = 0
        """That the producer has handed over."""
        self._fault: BaseException | None = None

    def put(self, item: T | None) -> None:
        """Hand over an item, waiting while the buffer is full; None ends the stream.

        Raises:
            Closed: the consumer has given up.
        """
        while True:
            if self.is_closed:
                raise Closed
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def fail(self, fault: BaseException) -> None:
        """End the stream with a fault, which the consumer raises."""
        self._fault = fault
        if not self.is_closed:
            self.put(None)

    @property
    def is_closed(self) -> bool:
        """Whether anything that is put is in vain."""
        return self._abandoned.is_set() or self._withdrawn.is_set()

    def withdraw(self) -> None:
        """End the stream for both sides, from a third thread: the items are not wanted."""
        self._withdrawn.set()
        with contextlib.suppress(queue.Full):  # then the consumer has something to wake for
            self._queue.put_nowait(None)

    def abandon(self) -> None:
        """Tell the producer that nobody reads any more."""
        self._abandoned.set()

    def __iter__(self) -> Iterator[T]:
        """Items until the end of the stream.

        Raises:
            NotWantedError: the attempt was withdrawn.
            BaseException: the producer's fault.
        """
        while (item := self._queue.get()) is not None and not self._withdrawn.is_set():
            yield item
        if self._withdrawn.is_set():
            raise NotWantedError("another worker has the shard", self.num_images)
        if self._fault is not None:
            raise self._fault
