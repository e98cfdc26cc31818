"""The driver: at most two shards on each worker; what is lost is tried again, the rest goes on."""

import collections
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from evalsuite.artifacts.run_directory import gaps_of
from evalsuite.errors import DataError, EnvironmentProblem, WorkerError, first_line
from evalsuite.pipeline.channel import NotWantedError
from evalsuite.pipeline.company import Lookout
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import CommitReport, NotStartedError
from evalsuite.runtime.apart import run_apart
from evalsuite.runtime.bench import Bench
from evalsuite.runtime.board import MAX_LOSSES, Board, SetAside
from evalsuite.runtime.crew import POLL_S, Answer, Crew
from evalsuite.runtime.events import Event, Kind, Observer, nobody
from evalsuite.runtime.faults import Loss, cause_of, may_pass
from evalsuite.runtime.hanging import Limits
from evalsuite.runtime.observing.log import remote_traceback
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest
from evalsuite.runtime.stragglers import stragglers
from evalsuite.runtime.team import Team
from evalsuite.runtime.watch import ClusterWatch, Node
from evalsuite.runtime.workers import Flight, Job, Worker

GRACE_S = 30.0
"""Time for shards in hand to commit after Ctrl-C or SIGTERM."""
LIMITS = Limits()
MAX_SET_ASIDE = 8
"""Shards that may be set aside before the run ends: then it is not the shards."""
_RECENT_SHARDS = 500  # of which medians are taken
_FAREWELL_S = 5.0
_UNSURE_S = 6.0  # without an answer of the head: several questions of the watch


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
    left_out: list[tuple[str, int, int]] = field(default_factory=list)
    """Stage, start, stop of what stood already: others', or of a worker lost after its commit."""


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
        limits: Limits | None = None,
        bench: Bench | None = None,
        lookout: Lookout | None = None,
    ) -> None:
        """Prepare; `run` starts the workers.

        Args:
            job: what every worker loads.
            team: how many workers, of which size.
            invocation_id: prefix of the attempts' ids.
            listener: is told the progress a few times a second.
            stop: set by signals.
            observer: is told each event.
            limits: when a worker counts as hung; `LIMITS` when absent.
            bench: has workers to begin with, and takes them back when all went well.
            lookout: knows what others have made meanwhile, which is left out.
        """
        self._team, self._invocation_id = team, invocation_id
        self._listener, self._stop, self._observer = listener, stop, observer
        self._limits = limits or LIMITS
        self._bench, self._lookout = bench, lookout
        self._looks_heeded = 0
        self._crew = Crew(job, team, bench)
        self._ended_well = False
        self._attempts = self._images_committed = 0
        self._shard_seconds: collections.deque[float] = collections.deque(maxlen=_RECENT_SHARDS)
        self._lost_since_commit: set[ShardTask] = set()
        self._known: dict[str, Node] = {}
        self.report = DriverReport()

    def run(self, tasks: Sequence[ShardTask]) -> DriverReport:
        """Commit every task.

        Raises:
            Interrupted: a signal came; shards in hand were given time to commit.
            WorkerError: workers were lost too often, or shards were set aside.
            EvalsuiteError: what a worker met; it would meet it again.
        """
        try:
            with ClusterWatch() as self._watch:
                run_apart(lambda: self._drive(tasks), self._watch.check_head)
        except DataError as error:
            if self._stop.requested:  # who goes on after bad data, as sweeps do, must hear of it
                raise self._stop.ended(self._images_committed, error) from error
            raise
        return self.report

    def _drive(self, tasks: Sequence[ShardTask]) -> None:
        board = self._board = Board(tasks)
        total = sum(task.stop - task.start for task in tasks)
        try:
            while board.num_open:
                if self._stop.requested:
                    self._wind_down()
                self._look_at_cluster()
                self._drop_what_others_made()
                self._fill()
                self._hear()
                self._replace_hung()
                self._listener(self._progress(total))
            self._part_from_losers()
            self._ended_well = True
        finally:
            self._let_go()
        if board.set_aside:
            raise WorkerError(_said_of(board.set_aside))

    # Handing out

    def _look_at_cluster(self) -> None:
        if self._watch.home_is_gone:
            raise EnvironmentProblem(
                "Ray's node manager died (killed, or out of memory?): what was committed stays;"
                " run the same command again to go on"
            )
        nodes = {node.node_id: node for node in self._watch.nodes}
        if self._known:
            for gone in self._known.keys() - nodes.keys():
                self._tell("node-left", host=self._known[gone].host)
            for new in nodes.keys() - self._known.keys():
                self._crew.forget_failures()
                self._tell("node-joined", host=nodes[new].host)
        self._known = nodes

    def _fill(self) -> None:
        board, crew = self._board, self._crew
        self._team.request(board.num_open)
        target = self._team.target(self._watch.nodes, crew.num_placed, board.num_open)
        for worker in crew.start_up_to(target):
            self._tell("worker-starting", worker)
        self.report.num_workers = crew.most
        for free in (2, 1):
            for worker in crew.workers:
                if worker.free == free and (task := self._next()) is not None:
                    self._hand(worker, task)
        if not crew.num_ready and (task := self._next()) is not None:
            board.drop(task)  # what stands is left out also while nobody could make it
        self._copy_stragglers()

    def _next(self) -> ShardTask | None:
        """The next shard that nobody else has made; None when none waits."""
        board = self._board
        while board.has_waiting:
            task = board.take()
            rest = [task] if self._lookout is None else self._lookout.rest_of(task)
            if rest == [task]:
                return task
            board.replace(task, rest)
            made = gaps_of([(left.start, left.stop) for left in rest], task.start, task.stop)
            self.report.left_out.extend((task.stages[0], *one) for one in made)
        return None

    def _drop_what_others_made(self) -> None:
        """Withdraw shards in hand that stand by now; what is withdrawn in vain is heard of."""
        if self._lookout is None or self._lookout.num_looks == self._looks_heeded:
            return
        self._looks_heeded = self._lookout.num_looks
        for worker in self._crew.workers:
            for flight in worker.flights:
                if not flight.withdrawn and not self._lookout.rest_of(flight.task):
                    worker.withdraw(flight)

    def _hand(self, worker: Worker, task: ShardTask, kind: Kind = "shard-handed") -> None:
        self._attempts += 1
        attempt_id = f"{self._invocation_id}-{self._attempts:05d}"
        worker.hand(task, attempt_id)
        self._tell(kind, worker, task, attempt_id)

    def _copy_stragglers(self) -> None:
        """Idle workers take copies of the shards that will be last; the first commit counts."""
        workers = self._crew.workers
        idle = [worker for worker in workers if worker.is_ready and not worker.flights]
        if not idle or self._board.num_queued:
            return
        late = stragglers(workers, self._board)
        for worker in idle:
            found = next((s for s in late if s.gains_from(worker, self._shard_seconds)), None)
            if found is None:
                continue
            late.remove(found)
            self._board.copy(found.flight.task)
            self._hand(worker, found.flight.task, "shard-copied")
            if not found.has_begun:
                found.worker.withdraw(found.flight)

    # Hearing

    def _hear(self) -> None:
        for answer in self._crew.answers():
            if answer.loss is not None:
                self._replace(answer.worker, answer.loss)
            elif answer.error is not None:
                self._take_failure(answer, answer.error)
            elif answer.flight is not None:
                self._take_commit(answer.worker, answer.flight, answer.value)
            else:
                self.report.numerics_ids.add(answer.value["numerics_id"])
                self.report.hosts.add(answer.value["host"])
                seconds = answer.value.get("loading_s")
                if self._bench is not None:
                    self._bench.count(answer.value["loads"])
                self._tell("worker-ready", answer.worker, seconds=seconds)

    def _take_commit(self, worker: Worker, flight: Flight, value: CommitReport) -> None:
        task = flight.task
        worker.end_flight(flight)
        self._lost_since_commit.clear()
        first = self._board.finish(task)
        if first:
            self._shard_seconds.append(value.seconds)
            self._images_committed += value.task.stop - value.task.start
            self.report.commits.append(value)
        else:
            self.report.computed_twice += 1
        kind: Kind = "shard-committed" if first and value.committed else "shard-discarded"
        took = {"seconds": value.seconds, "joules": value.joules}
        self._tell(kind, worker, value.task, flight.attempt_id, **took)
        if self._board.hands(task):
            for other in self._crew.workers:
                for copy in [f for f in other.flights if f.task == task and not f.withdrawn]:
                    other.withdraw(copy)

    def _take_failure(self, answer: Answer, error: BaseException) -> None:
        """A worker raised: a copy that was withdrawn, a fault that may pass, or the end."""
        worker, flight = answer.worker, answer.flight
        if flight is not None and isinstance(error, NotWantedError):
            worker.end_flight(flight, error.num_computed)
            self._board.drop(flight.task)
            if error.num_computed:
                self.report.computed_twice += 1
                self._tell("shard-discarded", worker, flight.task, flight.attempt_id)
        elif may_pass(error) or (flight is None and self._crew.num_ready):
            # others work: what this one cannot load is its own node's trouble
            self._replace(worker, Loss(first_line(error)), flight, remote_traceback(error))
        else:
            raise error from None

    # Losses

    def _replace_hung(self) -> None:
        """Treat workers that do not answer, load or go on as lost."""
        self._crew.check_loading(self._limits.start_s, self._watch.nodes)
        work = self._crew.num_ready > 0
        for worker in list(self._crew.workers):
            how = self._limits.hung(worker, self._shard_seconds, others_work=work)
            if how and not worker.has_answered and not worker.is_ready:
                # stopped in its first moment, or without a free place: asked for again, no loss
                self._tell("worker-ended", worker, reason=how)
                self._crew.lose(worker, Loss(how, departed=True))
            elif how:
                self._replace(worker, Loss(how))

    def _replace(
        self, worker: Worker, loss: Loss, at: Flight | None = None, traceback: str = ""
    ) -> None:
        """A lost worker's shards go back to the board; `_fill` starts a fresh process.

        Args:
            worker: that is lost.
            loss: how.
            at: the attempt that failed, when the worker told; else the one that it computed.
            traceback: of what the worker raised.
        """
        self.report.losses += 1
        to_blame = at or worker.in_hand
        self._lost_since_commit.update({to_blame.task} if to_blame else ())
        self._tell("worker-lost", worker, reason=loss.reason, traceback=traceback)
        self._crew.lose(worker, loss)
        for flight in worker.flights:
            departed = loss.departed or flight is not to_blame
            fate = self._board.give_back(flight.task, loss.reason, departed=departed)
            if fate != "elsewhere":
                kind: Kind = "shard-retried" if fate == "again" else "shard-quarantined"
                self._tell(kind, worker, flight.task, flight.attempt_id, reason=loss.reason)
        self._check_set_aside()

    def _check_set_aside(self) -> None:
        """End the run when it is not single shards that fail."""
        aside = self.report.set_aside = self._board.set_aside
        if aside and (len(self._lost_since_commit) > MAX_LOSSES or len(aside) > MAX_SET_ASIDE):
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
        while any(w.flights for w in self._crew.workers) and time.monotonic() < deadline:
            self._hear()

    def _let_go(self) -> None:
        for worker in self._crew.workers:
            self._tell("worker-ended", worker)
        if self._watch.silent_s > _UNSURE_S:
            return  # the head may be gone: Ray can be asked nothing, and workers end by themselves
        self._team.request(0)
        for worker in self._crew.workers:
            if self._ended_well:
                self._crew.release(worker)
            else:
                worker.kill()

    def _wind_down(self) -> None:
        """Let shards in hand commit, within bounds, then end."""
        self._tell("stopping", reason=self._stop.signal_name)
        for worker in self._crew.workers:
            worker.stop()
        deadline = time.monotonic() + GRACE_S
        flights = [(w, f) for w in self._crew.workers for f in w.flights]
        failure: BaseException | None = None
        while flights and time.monotonic() < deadline and not self._stop.insisted:
            if self._watch.home_is_gone or self._watch.silent_s > _UNSURE_S:
                break  # whoever sent the signal sent it to Ray as well
            ready, _ = ray.wait([f.commit for _, f in flights], num_returns=1, timeout=POLL_S)
            for worker, flight in [pair for pair in flights if pair[1].commit in ready]:
                flights.remove((worker, flight))
                try:
                    self._take_commit(worker, flight, ray.get(flight.commit))
                except RayTaskError as error:
                    cause = cause_of(error)
                    if not isinstance(cause, NotStartedError | NotWantedError):
                        failure = failure if may_pass(cause) else failure or cause
                except RayError:
                    continue
        if failure is not None:
            raise failure
        raise self._stop.ended(self._images_committed)

    def _progress(self, total: int) -> Progress:
        crew = self._crew
        total -= sum(stop - start for _, start, stop in self.report.left_out)
        done = min(total, self._images_committed + crew.images_running)
        waits_for = crew.waits_for(self._watch.nodes)
        losses, loading = self.report.losses, not crew.num_ready
        return Progress(done, total, len(crew.workers), losses, loading, waits_for=waits_for)

    def _tell(
        self,
        kind: Kind,
        worker: Worker | None = None,
        task: ShardTask | None = None,
        attempt_id: str = "",
        **more: Any,  # noqa: ANN401 - fields of Event
    ) -> None:
        if worker is not None:
            more = {
                "worker": worker.name,
                "host": worker.host,
                "pid": worker.about.get("pid"),
                "device": str(worker.about.get("device", "")),
                **more,
            }
        if task is not None:
            more |= {"start": task.start, "stop": task.stop}
        self._observer(Event(kind, attempt_id=attempt_id, **more))


def _said_of(aside: Sequence[SetAside]) -> str:
    listed = "; ".join(
        f"samples {one.task.start}..{one.task.stop - 1} ({one.reason})" for one in aside
    )
    return (
        f"set aside after {MAX_LOSSES + 1} workers failed on them: {listed}; everything else is"
        " committed: look at these, then run the same command again"
    )
