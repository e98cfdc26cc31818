"""Which shards would end last, and whether an idle worker would end one of them sooner."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.runtime.board import Board
from evalsuite.runtime.workers import Flight, Worker

MOST_HANDS = 2
"""Workers on one shard, at most."""


class Straggler(NamedTuple):
    """A shard in one worker's hand."""

    left_s: float
    """Estimated seconds until it is done there."""
    worker: Worker
    flight: Flight
    has_begun: bool
    """Whether it is the one that is computed, not the one that waits behind it."""

    def gains_from(self, idle: Worker, shard_seconds: Sequence[float]) -> bool:
        """Whether an idle worker would end it sooner, by its own speed or as the median shard."""
        size = self.flight.task.stop - self.flight.task.start
        if idle.images_per_second:
            return size / idle.images_per_second < self.left_s
        return bool(shard_seconds) and statistics.median(shard_seconds) < self.left_s


def stragglers(workers: Sequence[Worker], board: Board) -> list[Straggler]:
    """Shards that one worker alone has, those that would end last first."""
    found = [
        Straggler(left_s, worker, flight, place == 0)
        for worker in workers
        for place, (flight, left_s) in enumerate(
            zip(worker.flights, seconds_left(worker), strict=True)
        )
        if not flight.withdrawn
        and not board.is_done(flight.task)
        and board.hands(flight.task) < MOST_HANDS
    ]
    return sorted(found, key=lambda straggler: straggler.left_s, reverse=True)


def seconds_left(worker: Worker) -> list[float]:
    """Estimated seconds until each of a worker's shards is done, by its own speed so far.

    A worker that has computed nothing yet is given as long again as it has had.
    """
    ahead = 0
    done = worker.computed - worker.committed
    now = time.monotonic()
    waited_s = now - (worker.began_s if worker.began_s is not None else now)
    speed = worker.images_per_second
    found = []
    for flight in worker.flights:
        ahead += flight.task.stop - flight.task.start
        found.append(max(ahead - done, 0) / speed if speed else waited_s)
    return found
