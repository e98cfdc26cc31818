"""Worker processes: plain worker classes wrapped as Ray actors, one for each GPU or core."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evalsuite.pipeline.judging import JudgeJob, JudgeWorker
from evalsuite.pipeline.outside import FeatureJob, FeatureWorker
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import ShardWorker, WorkerJob
from evalsuite.runtime.placement import actor_class, has_process, kill_process

Job = WorkerJob | FeatureJob | JudgeJob
IN_FLIGHT = 2
"""Shards handed to one worker at a time: one computes while the other is written."""
GROUPS = ("ahead", "gpu", "io", "control")
"""One thread each: noise of the next batches, the device, files and receipts, answers."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class WorkerSize(NamedTuple):
    """What one worker takes of a machine."""

    num_cpus: float
    num_gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """As Ray's autoscaler is asked for it."""
        named = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return {name: amount for name, amount in named.items() if amount}


@dataclass(eq=False)
class Flight:
    """One attempt that a worker has in hand."""

    task: ShardTask
    attempt_id: str
    commit: "ray.ObjectRef[Any]"
    withdrawn: bool = False
    """Whether the worker was told that another one has committed the shard."""
    handed_s: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Worker:
    """A worker process as the driver sees it."""

    name: str
    actor: Any
    loading: "ray.ObjectRef[Any] | None"
    flights: list[Flight] = field(default_factory=list)
    asked: "ray.ObjectRef[Any] | None" = None
    asked_s: float = 0.0
    """When it was last asked for its progress."""
    computed: int = 0
    """Images that it has computed since it started."""
    committed: int = 0
    """Images of the attempts of this worker that have ended."""
    began_s: float | None = None
    """When it was handed its first shard."""
    is_ours: bool = False
    """Whether it runs on this very machine, in a private Ray."""
    about: dict[str, Any] = field(default_factory=dict)
    placed_s: float | None = None
    """When it was first known to have its place: Ray had a process for it, or it answered."""
    has_answered: bool = False
    """Whether its process has ever answered a question; before, it may wait for a place."""
    started_s: float = field(default_factory=time.monotonic)
    answered_s: float = field(default_factory=time.monotonic)
    """When it last answered."""
    advanced_s: float = field(default_factory=time.monotonic)
    """When it last computed or committed something."""
    slowest_s: float = 0.0
    """The longest that one of its batches has taken; 0 before the first."""

    @property
    def in_hand(self) -> Flight | None:
        """The attempt that it computes; the one before may only be written by now."""
        ahead = self.computed - self.committed
        for flight in self.flights:
            ahead -= flight.task.stop - flight.task.start
            if ahead < 0:
                return flight
        return self.flights[-1] if self.flights else None

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded."""
        return self.loading is None

    @property
    def free(self) -> int:
        """Shards that it may still be handed."""
        return IN_FLIGHT - len(self.flights) if self.is_ready else 0

    @property
    def host(self) -> str:
        """Its machine, once it has told."""
        return str(self.about.get("host", ""))

    @property
    def images_per_second(self) -> float | None:
        """What it has computed since its first shard; None before the first images."""
        if self.began_s is None or not self.computed:
            return None
        until_s = time.monotonic() if self.flights else self.advanced_s
        return self.computed / max(until_s - self.began_s, 1e-6)

    def hand(self, task: ShardTask, attempt_id: str) -> None:
        """Hand over a shard: its three parts run in three concurrency groups, each in order."""
        actor, now = self.actor, time.monotonic()
        actor.prepare.options(concurrency_group="ahead").remote(task, attempt_id)
        actor.compute.options(concurrency_group="gpu").remote(task, attempt_id)
        commit = actor.commit.options(concurrency_group="io").remote(task, attempt_id)
        if not self.flights:
            self.answered_s = self.advanced_s = now
        self.began_s = self.began_s or now
        self.flights.append(Flight(task, attempt_id, commit))

    def withdraw(self, flight: Flight) -> None:
        """Let it end an attempt that is no longer wanted, without a commit."""
        flight.withdrawn = True
        self.actor.withdraw.options(concurrency_group="control").remote(flight.attempt_id)

    def end_flight(self, flight: Flight, num_computed: int | None = None) -> None:
        """An attempt has ended, with a commit, or withdrawn after `num_computed` images."""
        self.flights.remove(flight)
        self.advanced_s = time.monotonic()
        size = flight.task.stop - flight.task.start
        self.committed += size if num_computed is None else num_computed

    def take_progress(self, computed: int) -> None:
        """Note an answer to `ask_progress`."""
        self.asked, self.answered_s, self.has_answered = None, time.monotonic(), True
        self.placed_s = self.placed_s or self.answered_s
        if computed > self.computed:
            self.slowest_s = max(self.slowest_s, self.answered_s - self.advanced_s)
            self.computed, self.advanced_s = computed, self.answered_s

    def look_for_place(self) -> None:
        """Ask Ray whether it has a place by now, where its process has not answered yet."""
        if self.placed_s is None and has_process(self.actor):
            self.placed_s = time.monotonic()

    def ask_progress(self, every_s: float) -> None:
        """Ask for the count of computed images unless a question is open or the last is recent."""
        now = time.monotonic()
        if self.asked is None and now - self.asked_s >= every_s:
            self.asked_s = now
            self.asked = self.actor.progress.options(concurrency_group="control").remote()

    def turned_to(self, name: str, job: Job) -> "Worker":
        """The same process as a worker with another job, whose networks it has loaded.

        Only for one that has nothing in hand.
        """
        loading = self.actor.retarget.options(concurrency_group="gpu").remote(job)
        return Worker(name, self.actor, loading, is_ours=self.is_ours, about=self.about)

    def stop(self) -> None:
        """Let it finish the shard in hand only."""
        self.actor.stop.options(concurrency_group="control").remote()

    def kill(self) -> None:
        """End the process; a stopped one cannot end itself, so it gets SIGKILL on its machine."""
        with contextlib.suppress(RayError):
            ray.kill(self.actor, no_restart=True)
        if "pid" not in self.about:
            return
        if self.is_ours:
            kill_process(self.about["pid"], self.about["began"])
        elif self.about.get("node_id"):
            killer = ray.remote(num_cpus=0, max_retries=0)(kill_process)
            here = NodeAffinitySchedulingStrategy(self.about["node_id"], soft=False)
            with contextlib.suppress(RayError):
                killer.options(scheduling_strategy=here).remote(
                    self.about["pid"], self.about["began"]
                )


_PLAIN: dict[type, type] = {
    WorkerJob: ShardWorker,
    FeatureJob: FeatureWorker,
    JudgeJob: JudgeWorker,
}


def start_worker(name: str, job: Job, size: WorkerSize, *, is_ours: bool) -> Worker:
    """Start a fresh process and let it load."""
    actor = (
        actor_class(_PLAIN[type(job)], GROUPS)
        .options(
            num_cpus=size.num_cpus,
            num_gpus=size.num_gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment_of(on_gpu=size.num_gpus > 0)},
        )
        .remote(job)
    )
    loading = actor.load.options(concurrency_group="gpu").remote()
    return Worker(name, actor, loading, is_ours=is_ours)


def environment_of(*, on_gpu: bool) -> dict[str, str]:
    """Variables of a worker's process: one thread, and GPUs for those alone that hold one."""
    return dict(_ONE_THREAD) if on_gpu else {**_ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""}
