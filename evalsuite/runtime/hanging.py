"""When a worker counts as hung: by its silence, and against its own slowest batch."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.runtime.workers import Worker

OWN_BATCHES = 3
"""A worker that stands still for so many of its own slowest batches is hung."""
SLOWEST_OF_ALL = 20
"""Before its first batch it is given so many of the others' median shards: a slow one is not hung,
and at the tail others take copies of what it has."""


class Limits(NamedTuple):
    """Seconds after which a worker is replaced; each is longer than a store is asked again."""

    silence_s: float = 60.0
    """Without an answer to any question; a third of the shortest standstill."""
    start_s: float = 900.0
    """Until anybody has loaded: then the run ends (`Crew.check_loading`); from the moment that Ray
    has a process for a worker, or, where it has none and no machine is to come, from its start."""
    loading_s: float = 900.0
    """Until it has loaded, while others work already."""
    first_batch_s: float = 1800.0
    """Until its first batch, at least: a large one on a slow device, or one that compiles."""
    piece_s: float = 0.0
    """After which whoever makes a piece ends it by itself; 0 where it never does."""

    def hung(self, worker: Worker, shard_seconds: Sequence[float], *, others_work: bool) -> str:
        """How a worker hangs, in a few words; "" while it may go on.

        Args:
            worker: that is alive, as far as Ray knows.
            shard_seconds: of shards that were committed lately, by whomever.
            others_work: some worker has loaded.
        """
        now = time.monotonic()
        silent = now - worker.answered_s > self.silence_s
        if not worker.is_ready:
            if worker.has_answered and silent:  # before its first answer it may wait for a place
                return "it hung: no answer"
            loading_s = now - (worker.placed_s or worker.started_s)
            late = others_work and loading_s > self.loading_s
            return f"it did not load in {self.loading_s:.0f} s" if late else ""
        if not worker.flights:
            return ""
        if silent:
            return "it hung: no answer"
        limit_s = self._still_s(worker, shard_seconds)
        stands_still = now - worker.advanced_s > limit_s
        return f"it hung: no progress in {limit_s:.0f} s" if stands_still else ""

    def _still_s(self, worker: Worker, shard_seconds: Sequence[float]) -> float:
        """Seconds without progress that a worker is given."""
        # a piece that is allowed so long has its images written before, and its rows read after
        allowed_s = self.piece_s + OWN_BATCHES * self.silence_s if self.piece_s else 0.0
        if worker.slowest_s:
            return max(allowed_s, OWN_BATCHES * max(self.silence_s, worker.slowest_s))
        median_s = statistics.median(shard_seconds) if shard_seconds else 0.0
        return max(allowed_s, self.first_batch_s, SLOWEST_OF_ALL * median_s)
