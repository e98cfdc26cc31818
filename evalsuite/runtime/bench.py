"""One Ray for several sessions, and workers that wait between them with their networks loaded."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

from evalsuite.runtime.cluster import Cluster, connected

if TYPE_CHECKING:
    from evalsuite.runtime.workers import Job, Worker


class Bench:
    """Where workers of a session that ended well wait for the next one.

    A worker is taken up again only for the networks that it has loaded, or for other weights of
    them: what decides those is the key of `turn_to`. All others are let go before their place is
    wanted.
    """

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._cluster: Cluster | None = None
        self._idle: list[Worker] = []
        self._key: object = None
        self.loads = 0
        """Times that a worker has loaded networks ..."""
        self.kept = 0
        """... and times that one went on with those that it had."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._idle.clear()  # they end with the connection; a head that is gone cannot be asked
        self._open.close()

    @property
    def num_idle(self) -> int:
        """Workers that wait; they hold their places."""
        return len(self._idle)

    @contextlib.contextmanager
    def connected(
        self,
        address: str | None,
        num_workers: int | None,
        *,
        use_gpu: bool,
        notice: Callable[[str], None] | None = None,
    ) -> Iterator[Cluster]:
        """As `cluster.connected`, but the connection outlives the block: it ends with the bench.

        All sessions of a bench ask for the same one.
        """
        if self._cluster is None:
            cluster = connected(address, num_workers, use_gpu=use_gpu, notice=notice)
            self._cluster = self._open.enter_context(cluster)
        yield self._cluster

    def turn_to(self, key: object) -> None:
        """Let go of workers that wait with other networks than those of the next session.

        Args:
            key: equal for jobs of the same networks, whatever their weights, on one kind of worker.
        """
        if key != self._key:
            self._dismiss()
        self._key = key

    def take(self, name: str, job: "Job") -> "Worker | None":
        """A worker that waits, turning to its new job; None when there is none."""
        if not self._idle:
            return None
        return self._idle.pop(0).turned_to(name, job)

    def keep(self, worker: "Worker") -> None:
        """Let a worker wait that has loaded and has nothing in hand."""
        self._idle.append(worker)

    def count(self, loads: int) -> None:
        """Note that a worker is ready, after `loads` loads."""
        self.loads += loads
        self.kept += not loads

    def _dismiss(self) -> None:
        while self._idle:
            self._idle.pop().kill()
