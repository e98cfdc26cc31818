"""The workers that are alive: starting them, hearing what they answer, letting them go."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from evalsuite.errors import EnvironmentProblem, WorkerError, first_line
from evalsuite.runtime.bench import Bench
from evalsuite.runtime.board import MAX_LOSSES
from evalsuite.runtime.faults import LOST, Loss, cause_of, loss_of
from evalsuite.runtime.team import Team
from evalsuite.runtime.watch import Node
from evalsuite.runtime.workers import Flight, Job, Worker, start_worker

POLL_S = 0.25
_STANDSTILL_S = 10.0
_QUESTIONS_PER_S = 400.0  # of progress, to all workers together
_PLACES_EVERY_S = 2.0
_START_BACK_OFF_S = (0.0, 0.0, 2.0, 10.0)


class Answer(NamedTuple):
    """What a worker gave: a value, an error that it raised, or its loss."""

    worker: Worker
    flight: Flight | None
    """The attempt that has ended; None when the answer is about the worker itself."""
    value: Any = None
    error: BaseException | None = None
    loss: Loss | None = None


class Crew:
    """Workers of one invocation, as the driver sees them."""

    def __init__(self, job: Job, team: Team, bench: Bench | None = None) -> None:
        self._job, self._team, self._bench = job, team, bench
        self._started = 0
        self._loading_losses = 0
        self._may_start_s = 0.0
        self._heard_s = time.monotonic()
        self._waited_s = self._places_s = float("-inf")
        self.workers: list[Worker] = []
        self.most = 0
        """The largest number that was alive at once."""

    @property
    def num_ready(self) -> int:
        """Workers that have loaded."""
        return sum(worker.is_ready for worker in self.workers)

    @property
    def num_placed(self) -> int:
        """Workers whose process is there, and those that wait on the bench: all hold places."""
        own = sum(worker.is_ready or worker.placed_s is not None for worker in self.workers)
        return own + (self._bench.num_idle if self._bench else 0)

    @property
    def images_running(self) -> int:
        """Images that are computed and not committed yet."""
        return sum(max(0, worker.computed - worker.committed) for worker in self.workers)

    def start_up_to(self, target: int) -> Iterator[Worker]:
        """Start workers until there are `target`, not at once after several have failed to load."""
        if self._loading_losses > MAX_LOSSES and self.num_ready:
            return  # the nodes that are left do not load it; until another joins, it goes on so
        while len(self.workers) < target and time.monotonic() >= self._may_start_s:
            name = f"worker-{self._started}"
            kept = self._bench.take(name, self._job) if self._bench else None
            worker = kept or start_worker(
                name, self._job, self._team.size, is_ours=self._team.is_private
            )
            self._started += 1
            self.workers.append(worker)
            self.most = max(self.most, len(self.workers))
            yield worker

    def answers(self) -> Iterator[Answer]:
        """What has come, after a wait of a moment at most; progress is noted and not given.

        Raises:
            EnvironmentProblem: Ray itself failed.
        """
        self._skip_a_standstill()
        owners = self._open_questions()
        if not owners:
            time.sleep(POLL_S)
            return
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_S)
        if ready and all(ref is owners[ref].asked for ref in ready):
            time.sleep(POLL_S / 4)
        more, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        for ref in more:
            worker = owners[ref]
            if worker in self.workers:
                answer = self._heard(worker, ref)
                if answer is not None:
                    yield answer

    def _skip_a_standstill(self) -> None:
        """When this process itself stood still, nobody was asked meanwhile."""
        now = time.monotonic()
        missed_s, self._heard_s = now - self._heard_s, now
        if missed_s > _STANDSTILL_S:
            for worker in self.workers:
                worker.answered_s += missed_s
                worker.advanced_s += missed_s

    def forget_failures(self) -> None:
        """Another node has joined, which may load what others could not."""
        self._loading_losses = 0

    def _open_questions(self) -> dict[Any, Worker]:
        every_s = max(POLL_S, len(self.workers) / _QUESTIONS_PER_S)
        owners: dict[Any, Worker] = {}
        for worker in self.workers:
            worker.ask_progress(every_s)
            refs = [worker.loading, worker.asked, *(flight.commit for flight in worker.flights)]
            owners |= {ref: worker for ref in refs if ref is not None}
        return owners

    def _heard(self, worker: Worker, ref: Any) -> Answer | None:  # noqa: ANN401 - a Ray reference
        flight = next((f for f in worker.flights if f.commit is ref), None)
        try:
            value = ray.get(ref)
        except LOST as error:
            return Answer(worker, flight, loss=loss_of(error))
        except RayTaskError as error:
            return Answer(worker, flight, error=cause_of(error))
        except RayError as error:
            raise EnvironmentProblem(f"Ray failed: {first_line(error)}") from error
        if ref is worker.asked:
            worker.take_progress(value)
            return None
        if ref is worker.loading:
            worker.loading, worker.about = None, value
            worker.answered_s = worker.advanced_s = time.monotonic()
            self._loading_losses = 0
        return Answer(worker, flight, value)

    def release(self, worker: Worker) -> None:
        """Let go of a worker whose crew has ended well: onto the bench, if there is one."""
        if self._bench is not None and worker.is_ready and not worker.flights:
            self._bench.keep(worker)
        else:
            worker.kill()

    def waits_for(self, nodes: Sequence[Node]) -> str:
        """What the workers wait for, in words; "" where one has its place or could have one."""
        return "" if self.num_placed else self._team.waiting(nodes)

    def check_loading(self, longest_s: float, nodes: Sequence[Node]) -> None:
        """Raise EnvironmentProblem when nobody works and no worker comes to its start.

        Those with a place are asked, or, while nobody has one, all. Where a machine is to come, it
        is waited for, however long; the time counts from its coming, which is seen before Ray gives
        it to a worker.
        """
        if self.num_ready:
            return
        now = time.monotonic()
        if self.waits_for(nodes) and now - self._places_s >= _PLACES_EVERY_S:
            self._places_s = now
            self._look_for_places()
        if self.waits_for(nodes):
            self._waited_s = now
            return
        placed_s = [worker.placed_s for worker in self.workers if worker.placed_s is not None]
        began_s = placed_s or [worker.started_s for worker in self.workers]
        if began_s and now - max(*began_s, self._waited_s) > longest_s:
            raise EnvironmentProblem(
                f"a worker has not begun for {longest_s / 60:.0f} minutes: Ray may have no free"
                " resources for it, or the weights' file system does not answer; look at"
                " `ray status`, or give fewer --num-workers"
            )

    def _look_for_places(self) -> None:
        """What is not free may be held by an own worker that has not answered yet."""
        for worker in self.workers:
            worker.look_for_place()
            if worker.placed_s is not None:
                return

    def lose(self, worker: Worker, loss: Loss) -> None:
        """Let go of a worker that is lost.

        Raises:
            WorkerError: workers are lost again and again before they have loaded.
        """
        self.workers.remove(worker)
        worker.kill()
        if worker.is_ready or loss.departed:
            return
        self._loading_losses += 1
        wait_s = _START_BACK_OFF_S[min(self._loading_losses, len(_START_BACK_OFF_S)) - 1]
        self._may_start_s = time.monotonic() + wait_s
        if self._loading_losses > MAX_LOSSES and not self.num_ready:
            raise WorkerError(
                f"loading lost a worker {self._loading_losses} times ({loss.reason}):"
                f" {loss.remedy}, then run the same command again"
            )
