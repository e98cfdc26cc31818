"""How many workers a cluster gets, as it grows and shrinks, and whom idle workers help."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import environment, wait_for
from ray import cloudpickle

from evalsuite.errors import EnvironmentProblem, UsageError
from evalsuite.pipeline.outside import FeatureWorker
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import ShardWorker
from evalsuite.runtime.board import Board
from evalsuite.runtime.cluster import Cluster
from evalsuite.runtime.placement import actor_class, kill_process
from evalsuite.runtime.stragglers import seconds_left, stragglers
from evalsuite.runtime.team import Team, gather_team
from evalsuite.runtime.watch import Node, is_configured, monitors_here
from evalsuite.runtime.workers import GROUPS, Flight, Worker, WorkerSize


def node(name: str, cpus: float = 8, gpus: float = 0, taken: float = 0) -> Node:
    """A machine of which `taken` GPUs (or CPUs, without GPUs) are in use."""
    free_cpus = cpus if gpus else cpus - taken
    return Node(name, name, cpus, gpus, free_cpus, gpus - taken if gpus else 0)


GPU = WorkerSize(1, 1)
HALF = WorkerSize(0.5, 0.5)


@pytest.mark.parametrize(
    ("asked", "nodes", "ready", "num_open", "expected"),
    [
        (None, (node("a", gpus=8),), 0, 100, 8),
        (None, (node("a", gpus=8), node("b", gpus=4)), 0, 100, 12),
        (None, (node("a", gpus=8, taken=6),), 0, 100, 2),
        (None, (node("a", gpus=8, taken=8),), 5, 100, 5),
        (None, (node("a", gpus=8, taken=5), node("b", gpus=8)), 5, 100, 16),
        (None, (node("a", gpus=8),), 0, 3, 3),
        (None, (node("head", gpus=0),), 0, 100, 1),
        (6, (node("a", gpus=4), node("b", gpus=4)), 0, 100, 6),
        (6, (node("a", gpus=4),), 0, 100, 4),
        (6, (node("a", gpus=8, taken=8),), 0, 100, 6),
    ],
)
def test_workers_follow_the_cluster(
    asked: int | None, nodes: tuple[Node, ...], ready: int, num_open: int, expected: int
) -> None:
    team = Team("cuda", GPU, asked, is_private=False)
    assert team.target(nodes, ready, num_open) == expected


def test_parts_of_gpus_do_not_add_up_across_machines() -> None:
    two = (node("a", gpus=1), node("b", gpus=1))
    third = WorkerSize(0.4, 0.4)
    assert Team("cuda", third, None, is_private=False).target(two, 0, 99) == 4
    assert Team("cuda", HALF, None, is_private=False).target(two, 0, 99) == 4


def test_cores_limit_workers_on_gpus_too() -> None:
    few = (node("a", cpus=2, gpus=8),)
    assert Team("cuda", GPU, None, is_private=False).target(few, 0, 99) == 2


def gather(asked: int | None, device: str, share: float = 1.0, gpus: int = 2) -> Team:
    nodes = (node("a", gpus=gpus),)
    return gather_team(Cluster("local", 8, gpus, 1), nodes, asked, device, share)


def test_a_worker_for_each_gpu_or_each_core() -> None:
    assert gather(None, "auto").size == GPU
    assert gather(None, "auto").kind == "cuda"
    assert gather(None, "cpu").size == WorkerSize(1, 0)
    assert gather(None, "auto", gpus=0).kind == "cpu"
    assert gather(4, "auto", 0.5).size == HALF


@pytest.mark.parametrize(
    ("asked", "device", "share", "gpus", "words"),
    [
        (None, "cuda", 1.0, 0, "--device cuda: Ray at local has no GPU"),
        (3, "auto", 1.0, 2, "--num-workers 3: Ray at local has 2 GPUs"),
        (9, "cpu", 1.0, 2, "--num-workers 9: Ray at local has 8 CPUs"),
        (5, "auto", 0.5, 2, "--num-workers 5: Ray at local has 2 GPUs for workers of 0.5 each"),
    ],
)
def test_more_than_the_cluster_holds(
    asked: int | None, device: str, share: float, gpus: int, words: str
) -> None:
    with pytest.raises(EnvironmentProblem, match=words):
        gather(asked, device, share, gpus)


@pytest.mark.parametrize("share", [0.0, -1.0, 2.0])
def test_a_share_of_a_gpu_is_at_most_one(share: float) -> None:
    with pytest.raises(UsageError, match="--gpus-per-worker"):
        gather(None, "auto", share)


def test_all_workers_are_of_one_class() -> None:
    """A class of its own for each would stay in the head's memory, thousands in a long run."""
    assert actor_class(ShardWorker, GROUPS) is actor_class(ShardWorker, GROUPS)
    assert actor_class(ShardWorker, GROUPS) is not actor_class(FeatureWorker, GROUPS)


def test_whoever_ends_a_process_loads_no_torch_for_it() -> None:
    """Ray runs the function in a new process, which imports the function's module."""
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=cloudpickle.dumps(kill_process),
        env=environment(private=True),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"False\n"


def worker(name: str, flights: list[tuple[int, int]], computed: int, age_s: float) -> Worker:
    """A worker that has been busy for `age_s` seconds and has computed so many images."""
    made = Worker(name, None, None, computed=computed, began_s=time.monotonic() - age_s)
    made.flights = [Flight(ShardTask(a, b, ("images",)), name, None) for a, b in flights]
    return made


def test_the_time_left_is_by_the_workers_own_speed() -> None:
    busy = worker("a", [(0, 100), (100, 200)], computed=50, age_s=10.0)
    assert seconds_left(busy) == pytest.approx([10.0, 30.0], rel=0.01)


def test_a_worker_that_shows_nothing_is_given_as_long_again() -> None:
    assert seconds_left(worker("a", [(0, 100)], 0, 7.0)) == pytest.approx([7.0], rel=0.01)


def test_the_slowest_shard_is_copied_once_and_only_where_it_gains() -> None:
    slow = worker("slow", [(0, 100), (100, 200)], computed=10, age_s=10.0)
    quick = worker("quick", [(200, 300)], computed=90, age_s=9.0)
    idle = worker("idle", [], computed=100, age_s=10.0)
    idle.advanced_s = time.monotonic()
    board = Board([f.task for w in (slow, quick) for f in w.flights])
    for _ in range(3):
        board.take()
    late = stragglers([slow, quick, idle], board)
    assert [(s.flight.task.start, s.has_begun) for s in late] == [
        (100, False),
        (0, True),
        (200, True),
    ]
    assert [s.gains_from(idle, ()) for s in late] == [True, True, False]
    board.copy(late[0].flight.task)
    assert [s.flight.task.start for s in stragglers([slow, quick, idle], board)] == [0, 200]


def test_a_fresh_worker_is_judged_by_the_median_shard() -> None:
    slow = worker("slow", [(0, 100)], computed=10, age_s=10.0)
    board = Board([slow.flights[0].task])
    board.take()
    (late,) = stragglers([slow], board)
    fresh = worker("fresh", [], 0, 0.0)
    fresh.began_s = None
    assert late.gains_from(fresh, [5.0, 6.0, 7.0])
    assert not late.gains_from(fresh, [95.0])
    assert not late.gains_from(fresh, [])


def test_the_shard_to_blame_is_the_one_that_is_computed() -> None:
    """The first may be written still while the second is computed."""
    both = [(0, 100), (100, 200)]
    first, second = worker("a", both, 40, 1.0), worker("b", both, 130, 1.0)
    assert first.in_hand is first.flights[0]
    assert second.in_hand is second.flights[1]
    second.committed = 100
    assert second.in_hand is second.flights[0]
    assert worker("c", [], 0, 1.0).in_hand is None


def test_the_autoscaler_is_asked_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("evalsuite.runtime.team.ask_autoscaler", lambda b: asked.append(len(b)))
    team = Team("cuda", GPU, None, is_private=False, grows=True)
    for num_open in (100_000, 99_999, 500):
        team.request(num_open)
    team.request(0)
    assert asked == [1024, 0]
    Team("cuda", GPU, None, is_private=False).request(100)
    assert asked == [1024, 0]


@pytest.mark.parametrize("options", [[], ["--autoscaling-config=/root/config.yaml"]])
def test_what_a_monitor_was_started_with_tells_whether_a_cluster_grows(
    options: list[str], tmp_path: Path
) -> None:
    """KubeRay names the nodes of a cluster of fixed size as it names those of one that grows."""
    program = tmp_path / "monitor.py"
    program.write_text("input()")
    command = [sys.executable, "-u", program, "--logs-dir=x", "--gcs-address=10.0.0.7:64321"]
    monitor = subprocess.Popen([*command, *options], stdin=subprocess.PIPE)
    try:
        # the kernel shows a command line a moment after the program has begun
        wait_for(lambda: monitors_here("127.0.0.1:64321"), 20)
        (found,) = monitors_here("127.0.0.1:64321")
        assert monitors_here("127.0.0.1:4321") == []
    finally:
        monitor.communicate(b"\n")
    assert is_configured([found], has_reported=True) == bool(options)


def test_an_autoscaler_beside_the_head_counts_once_it_has_reported() -> None:
    assert is_configured([], has_reported=True)
    assert not is_configured([], has_reported=False)
