"""Workers on unlike nodes with GPUs that are only named: who stands where, who does how much.

The workers are real Ray processes that wait where a network would compute.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from harness import NONE_BEFOREHAND, Outcome, descendants, environment, wait_for

from evalsuite.errors import EnvironmentProblem, UsageError
from evalsuite.pipeline.channel import NotWantedError
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import CommitReport
from evalsuite.runtime import workers
from evalsuite.runtime.cluster import Cluster, connected
from evalsuite.runtime.driver import Driver, DriverReport
from evalsuite.runtime.events import Event
from evalsuite.runtime.piecework import drive_pieces
from evalsuite.runtime.signals import StopRequest
from evalsuite.runtime.team import Team, gather_team
from evalsuite.runtime.watch import current_nodes
from evalsuite.runtime.workforce import PieceWork, Workforce

sys.path.insert(0, str(Path(__file__).parents[1] / "t2i"))
from drawn_run import Drawn

pytestmark = pytest.mark.ray
NODES = [{"num_cpus": 2, "num_gpus": 2}, {"num_cpus": 8, "num_gpus": 1}]
SLOW_CPUS = 8.0


@dataclass(frozen=True)
class WaitingJob:
    """What workers load."""

    shard_s: float
    slow_node: str
    slowness: float
    meeting: Path | None = None
    """A folder in which each worker leaves a file; none begins before there are `num_workers`."""
    num_workers: int = 0


class WaitingWorker:
    """A worker that waits as long as a shard takes, and tells its GPUs."""

    def __init__(self, job: WaitingJob) -> None:
        self._job = job
        self._computed = 0
        self._withdrawn: set[str] = set()
        self._ended: dict[str, threading.Event] = {}

    def load(self) -> dict[str, Any]:
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids()["GPU"]
        slow = context.get_node_id() == self._job.slow_node
        self._shard_s = self._job.shard_s * (self._job.slowness if slow else 1)
        if self._job.meeting is not None:
            (self._job.meeting / str(os.getpid())).touch()
        device = f"{'slow' if slow else 'fast'} {','.join(gpus)}"
        return {"host": "here", "pid": os.getpid(), "numerics_id": "0" * 64, "device": device}

    def prepare(self, task: ShardTask, attempt_id: str) -> None:
        self._ended.setdefault(attempt_id, threading.Event())

    def compute(self, task: ShardTask, attempt_id: str) -> None:
        while self._job.meeting and len([*self._job.meeting.iterdir()]) < self._job.num_workers:
            time.sleep(0.05)
        for _ in range(10):
            if attempt_id in self._withdrawn:
                break
            time.sleep(self._shard_s / 10)
            self._computed += (task.stop - task.start) // 10
        self._ended.setdefault(attempt_id, threading.Event()).set()

    def commit(self, task: ShardTask, attempt_id: str) -> CommitReport:
        self._ended.setdefault(attempt_id, threading.Event()).wait()
        if attempt_id in self._withdrawn:
            raise NotWantedError(attempt_id)
        return CommitReport(task, task.stages, (), self._shard_s)

    def withdraw(self, attempt_id: str) -> None:
        self._withdrawn.add(attempt_id)

    def stop(self) -> None:
        """It finishes what it has in hand."""

    def progress(self) -> int:
        return self._computed


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of two nodes."""
    program = Path(__file__).parents[1] / "cluster_host.py"
    with tempfile.TemporaryDirectory(prefix="es-", ignore_cleanup_errors=True) as folder:
        host = subprocess.Popen(
            [sys.executable, program, json.dumps(NODES), folder],
            env=environment(private=False, **NONE_BEFOREHAND),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield host.stdout.readline().strip()
        finally:
            below = descendants(host.pid)
            host.stdin.close()
            host.wait(timeout=60)
            wait_for(lambda: not any(process.alive for process in below), 30)


@pytest.fixture(scope="module")
def unlike(address: str) -> Iterator[Cluster]:
    """The two nodes, joined by this process until the end of the file."""
    with connected(address, None, use_gpu=True) as cluster:
        yield cluster


@contextlib.contextmanager
def waiting_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What loads a `WaitingJob` waits."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setitem(workers._PLAIN, WaitingJob, WaitingWorker)
    try:
        yield
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def driven(
    team: Team, job: WaitingJob, num_shards: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[DriverReport, list[Event]]:
    """All events of a run of so many shards of ten."""
    events: list[Event] = []
    tasks = [ShardTask(10 * i, 10 * i + 10, ("images",)) for i in range(num_shards)]
    given: Any = job
    one = Driver(given, team, "test", lambda progress: None, StopRequest(), events.append)
    with waiting_workers(monkeypatch):
        return one.run(tasks), events


def slow_node() -> str:
    return next(node.node_id for node in current_nodes() if node.cpus == SLOW_CPUS)


def test_the_share_of_a_gpu_is_taken_by_the_command_that_judges(
    address: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Which joins the nodes itself, and so comes before all who share a connection."""
    drawn = Drawn(tmp_path, 4)
    command = ("t2i", "geneval", drawn.run.root, "--metadata", drawn.metadata)
    command += ("--detector", "shapes", "--address", address, "--device", "cuda")
    done = call(*command, "--num-workers", 7, "--gpus-per-worker", 0.5)
    assert done.code == 6
    assert "--num-workers 7: Ray at" in done.stderr
    assert "has 3 GPUs for workers of 0.5 each" in done.stderr


def test_a_worker_for_each_gpu_and_the_faster_ones_do_more(
    unlike: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One of three is ten times slower; at the end the others take copies of its shards.

    None begins before all are there, whatever a busy machine takes to start them.
    """
    team = gather_team(unlike, current_nodes(), None, "auto")
    job = WaitingJob(0.3, slow_node(), 10.0, tmp_path, 3)
    report, events = driven(team, job, 30, monkeypatch)
    assert report.num_workers == 3
    devices = {event.worker: event.device for event in events if event.kind == "worker-ready"}
    assert sorted(devices.values()) == ["fast 0", "fast 1", "slow 0"]
    kinds = Counter(event.kind for event in events)
    assert kinds["shard-committed"] == 30
    assert {e.stop - e.start for e in events if e.kind == "shard-committed"} == {10}
    by = Counter(devices[event.worker] for event in events if event.kind == "shard-committed")
    assert by["slow 0"] <= 3
    assert min(by["fast 0"], by["fast 1"]) >= 8
    copied = [event for event in events if event.kind == "shard-copied"]
    assert copied
    assert {devices[event.worker] for event in copied} <= {"fast 0", "fast 1"}


@pytest.mark.slow
def test_parts_of_a_gpu(unlike: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two workers on each, and no more workers than there is room for."""
    team = gather_team(unlike, current_nodes(), None, "cuda", 0.5)
    job = WaitingJob(0.1, slow_node(), 1.0, tmp_path, 6)
    report, events = driven(team, job, 24, monkeypatch)
    assert report.num_workers == 6
    ready = Counter(event.device for event in events if event.kind == "worker-ready")
    assert ready == {"fast 0": 2, "fast 1": 2, "slow 0": 2}
    with pytest.raises(EnvironmentProblem, match=r"--num-workers 7: Ray at .* has 3 GPUs for"):
        gather_team(unlike, current_nodes(), 7, "cuda", 0.5)
    with pytest.raises(UsageError, match="a worker uses one GPU or a part of one"):
        gather_team(unlike, current_nodes(), None, "cuda", 2)


@pytest.mark.slow  # the command's own test above shows that it asks for parts of a GPU
def test_workers_that_judge_share_gpus(
    unlike: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Four on three GPUs, as verdicts and outside features are made; none begins before all are."""
    (tmp_path / "met").mkdir()
    work = PieceWork([(0, 80)], 10, "scores/waiting", tmp_path, "give a run")
    job: Any = WaitingJob(0.1, slow_node(), 1.0, tmp_path / "met", 4)
    reports: list[DriverReport] = []
    asked = Workforce(4, unlike.address, "cuda", 0.5)
    with waiting_workers(monkeypatch):
        drive_pieces(
            unlike, work, asked, lambda _nodes, _kind: job, lambda progress: None, reports.append
        )
    assert [report.num_workers for report in reports] == [4]
