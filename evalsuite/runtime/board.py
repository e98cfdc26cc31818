"""The board: which shards wait, are in hand, are done or set aside; bookkeeping without Ray."""

import collections
import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from evalsuite.pipeline.ranges import ShardTask

MAX_LOSSES = 3
"""Times that one shard may lose its worker, or fail in a way that may pass."""
MAX_DEPARTURES = 20
"""Times that one shard may be on a node that leaves: preemptions are nobody's fault."""
BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 30.0


Fate = Literal["again", "set aside", "elsewhere"]


class SetAside(NamedTuple):
    """A shard that failed on several workers, and how it failed at last."""

    task: ShardTask
    losses: int
    reason: str


class Board:
    """Shards of one invocation. A shard may be in several hands at once; the first commit counts.

    Args:
        tasks: disjoint shards, in the order in which they are handed out.
        clock: seconds, for the back-off.
    """

    def __init__(
        self, tasks: Sequence[ShardTask], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._waiting = collections.deque(tasks)
        self._delayed: list[tuple[float, int, ShardTask]] = []
        self._ticket = itertools.count()
        self._hands: collections.Counter[ShardTask] = collections.Counter()
        self._losses: collections.Counter[ShardTask] = collections.Counter()
        self._departures: collections.Counter[ShardTask] = collections.Counter()
        self._done: set[ShardTask] = set()
        self._total = len(tasks)
        self.set_aside: list[SetAside] = []

    @property
    def num_open(self) -> int:
        """Shards that are neither done nor set aside."""
        return self._total - len(self._done) - len(self.set_aside)

    @property
    def has_waiting(self) -> bool:
        """Whether a shard could be handed out now."""
        self._wake()
        return bool(self._waiting)

    @property
    def num_queued(self) -> int:
        """Shards in nobody's hand, also those whose back-off is not over."""
        return len(self._waiting) + len(self._delayed)

    def take(self) -> ShardTask:
        """The next shard, into one hand.

        Raises:
            IndexError: none waits.
        """
        self._wake()
        task = self._waiting.popleft()
        self._hands[task] += 1
        return task

    def replace(self, task: ShardTask, rest: Sequence[ShardTask]) -> None:
        """Put what is left of a shard that was just taken in its place; others made the rest."""
        self._hands[task] -= 1
        self._total += len(rest) - 1
        self._waiting.extendleft(reversed(rest))

    def copy(self, task: ShardTask) -> None:
        """Note that a shard in hand has gone to one more hand."""
        self._hands[task] += 1

    def hands(self, task: ShardTask) -> int:
        """Workers that have the shard."""
        return self._hands[task]

    def is_done(self, task: ShardTask) -> bool:
        """Whether an attempt at the shard has committed."""
        return task in self._done

    def finish(self, task: ShardTask) -> bool:
        """An attempt committed; whether it is the first of its shard."""
        self._hands[task] -= 1
        first = task not in self._done
        self._done.add(task)
        return first

    def drop(self, task: ShardTask) -> None:
        """An attempt was withdrawn; should no other have the shard any more, it waits again."""
        self._hands[task] -= 1
        if task not in self._done and self._hands[task] == 0:
            self._waiting.appendleft(task)

    def give_back(self, task: ShardTask, reason: str, *, departed: bool = False) -> Fate:
        """An attempt was lost. Gives what becomes of its shard.

        Args:
            task: the shard.
            reason: what happened, in a few words.
            departed: its node left, which is not held against the shard.
        """
        self._hands[task] -= 1
        if task in self._done or self._hands[task] > 0:
            return "elsewhere"
        counter, limit = (
            (self._departures, MAX_DEPARTURES) if departed else (self._losses, MAX_LOSSES)
        )
        counter[task] += 1
        losses = counter[task]
        if losses > limit:
            self.set_aside.append(SetAside(task, losses, reason))
            return "set aside"
        wait_s = 0.0 if departed else min(BACK_OFF_S * 2 ** (losses - 1), LONGEST_BACK_OFF_S)
        heapq.heappush(self._delayed, (self._clock() + wait_s, next(self._ticket), task))
        return "again"

    def _wake(self) -> None:
        """Shards whose back-off is over wait again: behind the others, which may be sound."""
        while self._delayed and self._delayed[0][0] <= self._clock():
            task = heapq.heappop(self._delayed)[2]
            if self._departures[task] and not self._losses[task]:
                self._waiting.appendleft(task)
            else:
                self._waiting.append(task)
