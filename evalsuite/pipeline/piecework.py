"""What workers share that make a shard piece by piece; a plain class, without Ray.

Four threads may use such a worker, as with `ShardWorker`: `prepare`, `compute`, `commit` and
`progress`. One thread makes pieces, another writes and commits them.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch

from evalsuite.pipeline.channel import Channel
from evalsuite.pipeline.device_faults import device_faults
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import CommitReport, NotStartedError

BUFFERED_PIECES = 2


class Countable(Protocol):
    """One piece of a shard."""

    @property
    def num_images(self) -> int:
        """That it is of."""
        ...


T = TypeVar("T", bound=Countable)


class PieceWorker(ABC, Generic[T]):
    """Makes and commits shards; what a piece is, and where it goes, others say."""

    _device: torch.device
    _batch_size: int
    """Images that are computed together, for the line about a GPU that is full."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel[T]] = {}
        self._lock = threading.Lock()
        self._images_done = 0
        self._stopping = False

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Load everything; gives `describe`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Who this worker is and what decides its bits."""

    @abstractmethod
    def _pieces(self, task: ShardTask) -> Iterator[T]:
        """Compute a shard."""

    @abstractmethod
    def _keep(self, task: ShardTask, pieces: Iterable[T], attempt_id: str, began_s: float) -> bool:
        """Write and commit a shard that began then; False when another attempt was first."""

    def progress(self) -> int:
        """Images computed since the worker started."""
        return self._images_done

    def stop(self) -> None:
        """Finish the shard in hand and begin no other."""
        self._stopping = True

    def withdraw(self, attempt_id: str) -> None:
        """End an attempt whose shard another worker has committed."""
        self._channel(attempt_id).withdraw()

    def prepare(self, task: ShardTask, attempt_id: str) -> None:
        """Nothing: `compute` reads images as it goes."""

    def compute(self, task: ShardTask, attempt_id: str) -> None:
        """Make the pieces of `task`, into the buffer that `commit` drains."""
        channel = self._channel(attempt_id)
        with channel.feeding():
            if self._stopping:
                raise NotStartedError(f"samples {task.start}..{task.stop - 1} were not begun")
            if channel.is_closed:
                return
            with device_faults(self._device, self._batch_size):
                for piece in self._pieces(task):
                    channel.put(piece)
                    channel.num_images += piece.num_images
                    self._images_done += piece.num_images

    def commit(self, task: ShardTask, attempt_id: str) -> CommitReport:
        """Write and commit what `compute` gives for `task`.

        Raises:
            EvalsuiteError: whatever `compute` met, or the storage; nothing is left of the attempt.
        """
        channel = self._channel(attempt_id)
        began_s = time.monotonic()
        try:
            done = self._keep(task, channel, attempt_id, began_s)
        except BaseException:
            channel.abandon()
            raise
        with self._lock:
            self._channels.pop(attempt_id, None)
        seconds = time.monotonic() - began_s
        made, lost = (task.stages, ()) if done else ((), task.stages)
        return CommitReport(task, made, lost, seconds)

    def _channel(self, attempt_id: str) -> Channel[T]:
        with self._lock:
            return self._channels.setdefault(attempt_id, Channel(BUFFERED_PIECES))
