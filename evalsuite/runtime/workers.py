"""Worker processes: plain worker classes wrapped as Ray actors, one for each GPU or core."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from evalsuite.errors import EnvironmentProblem
from evalsuite.pipeline.outside import FeatureJob, FeatureWorker
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import ShardWorker, WorkerJob
from evalsuite.runtime.cluster import Cluster

Job = WorkerJob | FeatureJob
IN_FLIGHT = 2
"""Shards handed to one worker at a time: one computes while the other is written."""
GROUPS = ("ahead", "gpu", "io", "control")
"""One thread each: noise of the next batches, the device, files and receipts, answers."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class Flight:
    """One attempt that a worker has in hand."""

    task: ShardTask
    attempt_id: str
    compute: "ray.ObjectRef[Any]"
    commit: "ray.ObjectRef[Any]"


@dataclass
class Worker:
    """A worker process as the driver sees it."""

    name: str
    actor: Any
    loading: "ray.ObjectRef[Any] | None"
    flights: list[Flight] = field(default_factory=list)
    asked: "ray.ObjectRef[Any] | None" = None
    computed: int = 0
    committed: int = 0
    is_ours: bool = False
    """Whether it runs on this very machine, in a private Ray."""
    about: dict[str, Any] = field(default_factory=dict)
    answered_s: float = field(default_factory=time.monotonic)
    """When it last answered."""
    advanced_s: float = field(default_factory=time.monotonic)
    """When it last computed or committed something."""

    @property
    def free(self) -> int:
        """Shards that it may still be handed."""
        return 0 if self.loading is not None else IN_FLIGHT - len(self.flights)

    def hand(self, task: ShardTask, attempt_id: str) -> None:
        """Hand over a shard: its three parts run in three concurrency groups, each in order."""
        actor = self.actor
        actor.prepare.options(concurrency_group="ahead").remote(task, attempt_id)
        compute = actor.compute.options(concurrency_group="gpu").remote(task, attempt_id)
        commit = actor.commit.options(concurrency_group="io").remote(task, attempt_id)
        if not self.flights:
            self.answered_s = self.advanced_s = time.monotonic()
        self.flights.append(Flight(task, attempt_id, compute, commit))

    def take_progress(self, computed: int) -> None:
        """Note an answer to `ask_progress`."""
        self.asked, self.answered_s = None, time.monotonic()
        if computed > self.computed:
            self.computed, self.advanced_s = computed, self.answered_s

    def is_hung(self, silence_s: float, standstill_s: float) -> bool:
        """Whether it has shards in hand but neither answers nor advances."""
        now = time.monotonic()
        silent = now - self.answered_s > silence_s
        return bool(self.flights) and (silent or now - self.advanced_s > standstill_s)

    def ask_progress(self) -> None:
        """Ask for the count of computed images unless a question is open."""
        if self.asked is None and self.loading is None:
            self.asked = self.actor.progress.options(concurrency_group="control").remote()

    def stop(self) -> None:
        """Let it finish the shard in hand only."""
        self.actor.stop.options(concurrency_group="control").remote()

    def kill(self) -> None:
        """End the process; a stopped one cannot end itself, so one on this machine is killed."""
        ray.kill(self.actor, no_restart=True)
        if self.is_ours and "pid" in self.about:
            with contextlib.suppress(OSError):
                os.kill(self.about["pid"], signal.SIGKILL)


def start_worker(name: str, job: Job, *, is_ours: bool) -> Worker:
    """Start a fresh process and let it load."""
    on_gpu = job.device == "cuda"
    kind = FeatureWorker if isinstance(job, FeatureJob) else ShardWorker
    wrapped = ray.remote(concurrency_groups=dict.fromkeys(GROUPS, 1))(kind)
    actor = wrapped.options(
        num_cpus=1,
        num_gpus=1 if on_gpu else 0,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": environment_of(on_gpu=on_gpu)},
    ).remote(job)
    loading = actor.load.options(concurrency_group="gpu").remote()
    return Worker(name, actor, loading, is_ours=is_ours)


def environment_of(*, on_gpu: bool) -> dict[str, str]:
    """Variables of a worker's process: one thread, and GPUs for those alone that hold one."""
    return dict(_ONE_THREAD) if on_gpu else {**_ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""}


def count_workers(
    cluster: Cluster, asked: int | None, device: str, num_tasks: int
) -> tuple[int, str]:
    """How many workers to start and on what: one for each GPU, or each core when there is none.

    Raises:
        EnvironmentProblem: GPUs were asked and there are none, or more workers than fit.
    """
    if device == "cuda" and not cluster.num_gpus:
        raise EnvironmentProblem(f"--device cuda: Ray at {cluster.address} has no GPU")
    kind = "cuda" if device != "cpu" and cluster.num_gpus else "cpu"
    room = cluster.num_gpus if kind == "cuda" else cluster.num_cpus
    if asked is not None and asked > room:
        noun = "GPUs" if kind == "cuda" else "CPUs"
        raise EnvironmentProblem(
            f"--num-workers {asked}: Ray at {cluster.address} has {room} {noun}"
        )
    return max(1, min(asked or room, num_tasks)), kind
