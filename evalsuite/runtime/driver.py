"""The driver: at most two shards on each worker; a lost worker's shards go to a fresh one."""

import collections
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from evalsuite.errors import EnvironmentProblem, EvalsuiteError, Interrupted, WorkerError
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import CommitReport, NotStartedError
from evalsuite.runtime.cluster import first_line
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest
from evalsuite.runtime.workers import Flight, Job, Worker, start_worker

MAX_LOSSES = 3
"""Times that one shard, or loading, may lose its worker."""
GRACE_S = 30.0
"""Time for shards in hand to commit after Ctrl-C or SIGTERM."""
LOADING_S = 900.0
SILENCE_S = 60.0
"""A worker that answers no question for so long is hung; so is one that stands still."""
_FEWEST_SHARDS = 3  # before a median says anything
_POLL_S = 0.25
_LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError)


@dataclass
class DriverReport:
    """What became of the tasks."""

    commits: list[CommitReport] = field(default_factory=list)
    losses: int = 0
    num_workers: int = 0
    numerics_ids: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)


class Driver:
    """Runs tasks on workers until all are committed."""

    def __init__(
        self,
        job: Job,
        num_workers: int,
        invocation_id: str,
        listener: Callable[[Progress], None],
        stop: StopRequest,
        silence_s: float = SILENCE_S,
        *,
        is_private: bool = False,
    ) -> None:
        """Prepare; `run` starts the workers.

        Args:
            job: what every worker loads.
            num_workers: worker processes to keep alive.
            invocation_id: prefix of the attempts' ids.
            listener: is told the progress a few times a second.
            stop: set by signals.
            is_private: the workers are processes of this machine.
            silence_s: after so long without an answer a worker counts as hung.
        """
        self._job, self._num_workers = job, num_workers
        self._invocation_id = invocation_id
        self._listener, self._stop = listener, stop
        self._workers: list[Worker] = []
        self._losses: collections.Counter[object] = collections.Counter()
        self._attempts = 0
        self._started = 0
        self._silence_s, self._is_private = silence_s, is_private
        self._shard_seconds: list[float] = []
        self.report = DriverReport(num_workers=num_workers)

    def run(self, tasks: Sequence[ShardTask]) -> DriverReport:
        """Commit every task.

        Raises:
            Interrupted: a signal came; shards in hand were given time to commit.
            WorkerError: workers were lost too often.
            EvalsuiteError: what a worker met; it would meet it again.
        """
        report = self.report
        queue = collections.deque(tasks)
        total = sum(task.stop - task.start for task in tasks)
        try:
            while queue or any(worker.flights for worker in self._workers):
                if self._stop.requested:
                    self._wind_down(report)
                self._fill(queue)
                self._wait(queue, report)
                self._replace_hung(queue, report)
                self._listener(self._progress(report, total))
        finally:
            for worker in self._workers:
                with contextlib.suppress(RayError):
                    worker.kill()
        return report

    def _fill(self, queue: collections.deque[ShardTask]) -> None:
        open_shards = len(queue) + sum(
            bool(w.flights) or w.loading is not None for w in self._workers
        )
        while len(self._workers) < min(self._num_workers, max(open_shards, 1)):
            self._workers.append(
                start_worker(f"worker-{self._started}", self._job, is_ours=self._is_private)
            )
            self._started += 1
        for free in (2, 1):
            for worker in self._workers:
                if queue and worker.free == free:
                    self._attempts += 1
                    worker.hand(queue.popleft(), f"{self._invocation_id}-{self._attempts:05d}")

    def _wait(self, queue: collections.deque[ShardTask], report: DriverReport) -> None:
        for worker in self._workers:
            worker.ask_progress()
        owners: dict[Any, Worker] = {}
        for worker in self._workers:
            refs = [worker.loading, worker.asked, *(flight.commit for flight in worker.flights)]
            owners |= {ref: worker for ref in refs if ref is not None}
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=_POLL_S)
        if ready and all(ref is owners[ref].asked for ref in ready):
            time.sleep(_POLL_S / 4)
        more, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        for ref in more:
            worker = owners[ref]
            if worker not in self._workers:
                continue
            try:
                self._take(worker, ref, report)
            except _LOST:
                self._replace(worker, queue, report)
            except RayTaskError as error:
                raise _cause_of(error) from None
            except RayError as error:
                raise EnvironmentProblem(f"Ray failed: {first_line(error)}") from error

    def _take(self, worker: Worker, ref: Any, report: DriverReport) -> None:  # noqa: ANN401 - a Ray reference
        value = ray.get(ref)
        if ref is worker.loading:
            worker.loading, worker.about = None, value
            report.numerics_ids.add(value["numerics_id"])
            report.hosts.add(value["host"])
        elif ref is worker.asked:
            worker.take_progress(value)
        else:
            flight = next(f for f in worker.flights if f.commit is ref)
            worker.flights.remove(flight)
            worker.advanced_s = time.monotonic()
            self._shard_seconds.append(value.seconds)
            worker.committed += flight.task.stop - flight.task.start
            report.commits.append(value)

    def _replace_hung(self, queue: collections.deque[ShardTask], report: DriverReport) -> None:
        """Treat workers that do not answer, or stand still for three median shards, as lost."""
        known = len(self._shard_seconds) >= _FEWEST_SHARDS
        median_s = statistics.median(self._shard_seconds) if known else float("inf")
        for worker in list(self._workers):
            if worker.loading is not None and time.monotonic() - worker.answered_s > LOADING_S:
                raise EnvironmentProblem(
                    f"a worker has not begun for {LOADING_S / 60:.0f} minutes: Ray may have no free"
                    " resources for it, or the weights' file system does not answer; look at"
                    " `ray status`, or give fewer --num-workers"
                )
            if worker.is_hung(self._silence_s, max(self._silence_s, 3 * median_s)):
                self._replace(worker, queue, report)

    def _check_nodes(self) -> None:
        """Raise EnvironmentProblem when no node manager is left; asked when workers are lost."""
        if not any(node["Alive"] for node in ray.nodes()):
            raise EnvironmentProblem(
                "Ray's node manager died (killed, or out of memory?): what was committed stays;"
                " run the same command again to go on"
            )

    def _replace(
        self, worker: Worker, queue: collections.deque[ShardTask], report: DriverReport
    ) -> None:
        """A lost worker's shards go back to the queue; `_fill` starts a fresh process."""
        self._workers.remove(worker)
        self._check_nodes()
        with contextlib.suppress(RayError):
            worker.kill()
        report.losses += 1
        keys: list[ShardTask | str] = [flight.task for flight in worker.flights]
        for key in keys or ["loading"]:
            self._losses[key] += 1
            if self._losses[key] > MAX_LOSSES:
                what = (
                    f"samples {key.start}..{key.stop - 1}"
                    if isinstance(key, ShardTask)
                    else "loading"
                )
                raise WorkerError(
                    f"{what} lost a worker {MAX_LOSSES + 1} times (killed, or out of memory?):"
                    " look at the memory, lower --num-workers, then run the same command again"
                )
        queue.extendleft(flight.task for flight in reversed(worker.flights))

    def _wind_down(self, report: DriverReport) -> None:
        """Let shards in hand commit, within bounds, then end."""
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + GRACE_S
        flights: list[tuple[Worker, Flight]] = [(w, f) for w in self._workers for f in w.flights]
        while flights and time.monotonic() < deadline and not self._stop.insisted:
            ready, _ = ray.wait([f.commit for _, f in flights], num_returns=1, timeout=_POLL_S)
            for worker, flight in [pair for pair in flights if pair[1].commit in ready]:
                flights.remove((worker, flight))
                try:
                    report.commits.append(ray.get(flight.commit))
                except RayTaskError as error:
                    if not isinstance(_cause_of(error), NotStartedError):
                        raise _cause_of(error) from None
                except RayError:
                    continue
        saved = sum(r.task.stop - r.task.start for r in report.commits)
        raise Interrupted(
            f"stopped by {self._stop.signal_name}; {saved} images of this invocation are committed:"
            " run the same command again to go on",
            self._stop.exit_code,
        )

    def _progress(self, report: DriverReport, total: int) -> Progress:
        committed = sum(r.task.stop - r.task.start for r in report.commits)
        running = sum(max(0, w.computed - w.committed) for w in self._workers)
        loading = all(worker.loading is not None for worker in self._workers)
        return Progress(
            min(total, committed + running), total, len(self._workers), report.losses, loading
        )


def _cause_of(error: RayTaskError) -> BaseException:
    """Our own error that a worker raised, or the bug with its remote traceback."""
    cause: BaseException | None = error.cause
    if isinstance(cause, EvalsuiteError):
        return cause
    bug: BaseException = error
    return bug
