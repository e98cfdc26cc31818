"""The driver: at most two shards on each worker; what is lost is tried again, the rest goes on."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from evalsuite.errors import EnvironmentProblem, Interrupted, WorkerError
from evalsuite.pipeline.channel import NotWantedError
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import CommitReport, NotStartedError
from evalsuite.runtime.board import MAX_LOSSES, Board, SetAside
from evalsuite.runtime.cluster import first_line
from evalsuite.runtime.events import Event, Kind, Observer, nobody
from evalsuite.runtime.faults import LOST, Loss, cause_of, loss_of, may_pass
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest
from evalsuite.runtime.stragglers import stragglers
from evalsuite.runtime.team import Team
from evalsuite.runtime.watch import HEAD_GONE_S, ClusterWatch, Node
from evalsuite.runtime.workers import Flight, Job, Worker, start_worker

GRACE_S = 30.0
"""Time for shards in hand to commit after Ctrl-C or SIGTERM."""
LOADING_S = 900.0
SILENCE_S = 60.0
"""A worker that answers no question for so long is hung; so is one that stands still."""
MAX_SET_ASIDE = 8
"""Shards that may be set aside before the run ends: then it is not the shards."""
_FEWEST_SHARDS = 3  # before a median says anything
_POLL_S = 0.25
_QUESTIONS_PER_S = 400.0  # of progress, to all workers together
_FAREWELL_S = 5.0
_START_BACK_OFF_S = (0.0, 0.0, 2.0, 10.0)


@dataclass
class DriverReport:
    """What became of the tasks."""

    commits: list[CommitReport] = field(default_factory=list)
    losses: int = 0
    num_workers: int = 0
    """The most that were alive at once."""
    numerics_ids: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    computed_twice: int = 0
    """Shards that a second worker finished too, or whose copy was given up after it began."""
    set_aside: list[SetAside] = field(default_factory=list)


class Driver:
    """Runs tasks on workers until all are committed."""

    def __init__(
        self,
        job: Job,
        team: Team,
        invocation_id: str,
        listener: Callable[[Progress], None],
        stop: StopRequest,
        observer: Observer = nobody,
        silence_s: float = SILENCE_S,
    ) -> None:
        """Prepare; `run` starts the workers.

        Args:
            job: what every worker loads.
            team: how many workers, of which size.
            invocation_id: prefix of the attempts' ids.
            listener: is told the progress a few times a second.
            stop: set by signals.
            observer: is told each event.
            silence_s: after so long without an answer a worker counts as hung.
        """
        self._job, self._team, self._invocation_id = job, team, invocation_id
        self._listener, self._stop, self._observer = listener, stop, observer
        self._silence_s = silence_s
        self._workers: list[Worker] = []
        self._attempts = self._started = 0
        self._loading_losses = 0
        self._may_start_s = 0.0
        self._shard_seconds: list[float] = []
        self._losses_since_commit = self._images_committed = 0
        self._known: dict[str, Node] = {}
        self.report = DriverReport()

    def run(self, tasks: Sequence[ShardTask]) -> DriverReport:
        """Commit every task.

        Raises:
            Interrupted: a signal came; shards in hand were given time to commit.
            WorkerError: workers were lost too often, or shards were set aside.
            EvalsuiteError: what a worker met; it would meet it again.
        """
        board = self._board = Board(tasks)
        total = sum(task.stop - task.start for task in tasks)
        with ClusterWatch() as watch:
            self._watch = watch
            try:
                while board.num_open:
                    if self._stop.requested:
                        self._wind_down()
                    self._look_at_cluster()
                    self._fill()
                    self._wait()
                    self._replace_hung()
                    self._listener(self._progress(total))
                self._part_from_losers()
            finally:
                self._let_go()
        if board.set_aside:
            raise WorkerError(_said_of(board.set_aside))
        return self.report

    # The cluster and its workers

    def _look_at_cluster(self) -> None:
        if self._watch.silent_s > HEAD_GONE_S:
            raise EnvironmentProblem(
                f"Ray's head has not answered for {HEAD_GONE_S:.0f} s: what was committed stays;"
                " when the cluster is back, run the same command again to go on"
            )
        nodes = {node.node_id: node for node in self._watch.nodes}
        if not nodes:
            raise EnvironmentProblem(
                "Ray's node manager died (killed, or out of memory?): what was committed stays;"
                " run the same command again to go on"
            )
        if self._known:
            for gone in self._known.keys() - nodes.keys():
                self._tell("node-left", host=self._known[gone].host)
            for new in nodes.keys() - self._known.keys():
                self._tell("node-joined", host=nodes[new].host)
        self._known = nodes

    def _fill(self) -> None:
        self._team.request(self._board.num_open)
        ready = sum(worker.is_ready for worker in self._workers)
        target = self._team.target(self._watch.nodes, ready, self._board.num_open)
        while len(self._workers) < target and time.monotonic() >= self._may_start_s:
            self._start_one()
        for free in (2, 1):
            for worker in self._workers:
                if worker.free == free and self._board.has_waiting:
                    self._hand(worker, self._board.take())
        self._copy_stragglers()

    def _start_one(self) -> None:
        worker = start_worker(
            f"worker-{self._started}", self._job, self._team.size, is_ours=self._team.is_private
        )
        self._started += 1
        self._workers.append(worker)
        self.report.num_workers = max(self.report.num_workers, len(self._workers))
        self._tell("worker-starting", worker)

    def _hand(self, worker: Worker, task: ShardTask, kind: Kind = "shard-handed") -> None:
        self._attempts += 1
        attempt_id = f"{self._invocation_id}-{self._attempts:05d}"
        worker.hand(task, attempt_id)
        self._tell(kind, worker, task, attempt_id)

    def _copy_stragglers(self) -> None:
        """Idle workers take copies of the shards that will be last; the first commit counts."""
        idle = [worker for worker in self._workers if worker.is_ready and not worker.flights]
        if not idle or self._board.num_queued:
            return
        late = stragglers(self._workers, self._board)
        for worker in idle:
            found = next((s for s in late if s.gains_from(worker, self._shard_seconds)), None)
            if found is None:
                continue
            late.remove(found)
            self._board.copy(found.flight.task)
            self._hand(worker, found.flight.task, "shard-copied")
            if not found.has_begun:
                found.worker.withdraw(found.flight)

    # What workers answer

    def _wait(self) -> None:
        every_s = max(_POLL_S, len(self._workers) / _QUESTIONS_PER_S)
        for worker in self._workers:
            worker.ask_progress(every_s)
        owners: dict[Any, Worker] = {}
        for worker in self._workers:
            refs = [worker.loading, worker.asked, *(flight.commit for flight in worker.flights)]
            owners |= {ref: worker for ref in refs if ref is not None}
        if not owners:
            time.sleep(_POLL_S)
            return
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=_POLL_S)
        if ready and all(ref is owners[ref].asked for ref in ready):
            time.sleep(_POLL_S / 4)
        more, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        for ref in more:
            worker = owners[ref]
            if worker not in self._workers:
                continue
            try:
                self._take(worker, ref)
            except LOST as error:
                self._replace(worker, loss_of(error))
            except RayTaskError as error:
                self._take_failure(worker, ref, cause_of(error))
            except RayError as error:
                raise EnvironmentProblem(f"Ray failed: {first_line(error)}") from error

    def _take(self, worker: Worker, ref: Any) -> None:  # noqa: ANN401 - a Ray reference
        value = ray.get(ref)
        if ref is worker.loading:
            worker.loading, worker.about = None, value
            self._loading_losses = 0
            self.report.numerics_ids.add(value["numerics_id"])
            self.report.hosts.add(value["host"])
            self._tell("worker-ready", worker)
        elif ref is worker.asked:
            worker.take_progress(value)
        else:
            self._take_commit(worker, next(f for f in worker.flights if f.commit is ref), value)

    def _take_commit(self, worker: Worker, flight: Flight, value: CommitReport) -> None:
        task = flight.task
        worker.end_flight(flight)
        self._losses_since_commit = 0
        if self._board.finish(task):
            self._shard_seconds.append(value.seconds)
            self.report.commits.append(value)
            self._images_committed += value.task.stop - value.task.start
            self._tell(
                "shard-committed" if value.committed else "shard-discarded",
                worker,
                value.task,
                flight.attempt_id,
                seconds=value.seconds,
            )
        else:
            self.report.computed_twice += 1
            self._tell("shard-discarded", worker, task, flight.attempt_id, seconds=value.seconds)
        if self._board.hands(task):
            for other in self._workers:
                for copy in [f for f in other.flights if f.task == task and not f.withdrawn]:
                    other.withdraw(copy)

    def _take_failure(self, worker: Worker, ref: Any, error: BaseException) -> None:  # noqa: ANN401
        """A worker raised: a copy that was withdrawn, a fault that may pass, or the end."""
        flight = next((f for f in worker.flights if f.commit is ref), None)
        if flight is not None and isinstance(error, NotWantedError):
            worker.end_flight(flight, error.num_computed)
            self._board.drop(flight.task)
            if error.num_computed:
                self.report.computed_twice += 1
                self._tell("shard-discarded", worker, flight.task, flight.attempt_id)
            return
        if not may_pass(error):
            raise error from None
        self._replace(worker, Loss(first_line(error)))

    # Losses

    def _replace_hung(self) -> None:
        """Treat workers that do not answer, or stand still for three median shards, as lost."""
        known = len(self._shard_seconds) >= _FEWEST_SHARDS
        median_s = statistics.median(self._shard_seconds) if known else float("inf")
        none_ready = not any(worker.is_ready for worker in self._workers)
        for worker in list(self._workers):
            late = worker.loading is not None and time.monotonic() - worker.answered_s > LOADING_S
            if late and none_ready:
                raise EnvironmentProblem(
                    f"a worker has not begun for {LOADING_S / 60:.0f} minutes: Ray may have no free"
                    " resources for it, or the weights' file system does not answer; look at"
                    " `ray status`, or give fewer --num-workers"
                )
            if worker.is_hung(self._silence_s, max(self._silence_s, 3 * median_s)):
                self._replace(worker, Loss("it hung: no answer, or no progress"))

    def _replace(self, worker: Worker, loss: Loss) -> None:
        """A lost worker's shards go back to the board; `_fill` starts a fresh process."""
        self._workers.remove(worker)
        worker.kill()
        self.report.losses += 1
        self._losses_since_commit += 1
        self._tell("worker-lost", worker, reason=loss.reason)
        if not worker.is_ready:
            self._note_loading_loss(loss)
        for place, flight in enumerate(worker.flights):
            departed = loss.departed or place > 0  # what waited behind another is not to blame
            fate = self._board.give_back(flight.task, loss.reason, departed=departed)
            if fate != "elsewhere":
                kind: Kind = "shard-retried" if fate == "again" else "shard-quarantined"
                self._tell(kind, worker, flight.task, flight.attempt_id, reason=loss.reason)
        self._check_set_aside()

    def _note_loading_loss(self, loss: Loss) -> None:
        self._loading_losses += 1
        wait_s = _START_BACK_OFF_S[min(self._loading_losses, len(_START_BACK_OFF_S)) - 1]
        self._may_start_s = time.monotonic() + wait_s
        if self._loading_losses > MAX_LOSSES and not any(w.is_ready for w in self._workers):
            raise WorkerError(
                f"loading lost a worker {self._loading_losses} times ({loss.reason}):"
                " look at the memory, lower --num-workers, then run the same command again"
            )

    def _check_set_aside(self) -> None:
        """End the run when it is not single shards that fail."""
        aside = self.report.set_aside = self._board.set_aside
        if aside and (self._losses_since_commit > MAX_LOSSES or len(aside) > MAX_SET_ASIDE):
            last = aside[-1]
            raise WorkerError(
                f"samples {last.task.start}..{last.task.stop - 1} lost a worker {last.losses} times"
                f" ({last.reason}): look at the memory, lower --num-workers, then run the same"
                " command again"
            )

    # The end

    def _part_from_losers(self) -> None:
        """Give copies that were withdrawn a moment to remove their files."""
        deadline = time.monotonic() + _FAREWELL_S
        while any(worker.flights for worker in self._workers) and time.monotonic() < deadline:
            self._wait()

    def _let_go(self) -> None:
        gone = self._watch.silent_s > HEAD_GONE_S  # then Ray can be asked nothing
        if not gone:
            self._team.request(0)
        for worker in self._workers:
            self._tell("worker-ended", worker)
            if not gone:
                worker.kill()

    def _wind_down(self) -> None:
        """Let shards in hand commit, within bounds, then end."""
        self._tell("stopping", reason=self._stop.signal_name)
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + GRACE_S
        flights = [(w, f) for w in self._workers for f in w.flights]
        while flights and time.monotonic() < deadline and not self._stop.insisted:
            ready, _ = ray.wait([f.commit for _, f in flights], num_returns=1, timeout=_POLL_S)
            for worker, flight in [pair for pair in flights if pair[1].commit in ready]:
                flights.remove((worker, flight))
                try:
                    self._take_commit(worker, flight, ray.get(flight.commit))
                except RayTaskError as error:
                    cause = cause_of(error)
                    if not isinstance(cause, NotStartedError | NotWantedError):
                        raise cause from None
                except RayError:
                    continue
        raise Interrupted(
            f"stopped by {self._stop.signal_name}; {self._images_committed} images of this"
            " invocation are committed: run the same command again to go on",
            self._stop.exit_code,
        )

    def _progress(self, total: int) -> Progress:
        running = sum(max(0, w.computed - w.committed) for w in self._workers)
        loading = not any(worker.is_ready for worker in self._workers)
        return Progress(
            min(total, self._images_committed + running),
            total,
            len(self._workers),
            self.report.losses,
            loading,
        )

    def _tell(
        self,
        kind: Kind,
        worker: Worker | None = None,
        task: ShardTask | None = None,
        attempt_id: str = "",
        **more: Any,  # noqa: ANN401 - fields of Event
    ) -> None:
        about = worker.about if worker else {}
        where = (
            {}
            if worker is None
            else {
                "worker": worker.name,
                "host": worker.host,
                "pid": about.get("pid"),
                "device": str(about.get("device", "")),
            }
        )
        shard = {} if task is None else {"start": task.start, "stop": task.stop}
        self._observer(Event(kind, **{**where, **shard, "attempt_id": attempt_id, **more}))


def _said_of(aside: Sequence[SetAside]) -> str:
    listed = "; ".join(
        f"samples {one.task.start}..{one.task.stop - 1} ({one.reason})" for one in aside
    )
    return (
        f"set aside after {MAX_LOSSES + 1} workers failed on them: {listed}; everything else is"
        " committed: look at these, then run the same command again"
    )
