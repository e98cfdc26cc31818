"""While no worker can start: what others make ends a driver, and what may come is waited for."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from harness import HostedCluster, wait_for
from run_maker import make_shard, new_run, new_worker, resolved

from evalsuite.artifacts.run_directory import IMAGES
from evalsuite.cli.output import ProgressView
from evalsuite.errors import EnvironmentProblem
from evalsuite.pipeline.company import Lookout
from evalsuite.pipeline.coverage import Demand
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import WorkerJob
from evalsuite.runtime import team as team_module
from evalsuite.runtime.cluster import connected
from evalsuite.runtime.crew import Crew
from evalsuite.runtime.driver import Driver
from evalsuite.runtime.hanging import Limits
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest
from evalsuite.runtime.team import Team, numerics_of_workers
from evalsuite.runtime.workers import Worker, WorkerSize

pytestmark = pytest.mark.ray
MORE_CPUS = 9.0
"""Than any node has: workers of this size wait for their place."""


def test_the_last_receipt_ends_a_driver_without_workers(
    cluster: HostedCluster, tmp_path: Path
) -> None:
    """Which had waited, longer than workers with a place may load, for machines to come."""
    run = new_run(tmp_path / "run")
    other = new_worker(run)
    starts = [0, 10]
    job = WorkerJob(str(run.root), resolved().materials, (), OutputFormat("all", "parquet"), "cpu")
    lookout = Lookout(run, Demand(20, None, "all", ()), look_s=0.1)
    seen: list[Progress] = []

    def heard(progress: Progress) -> None:
        seen.append(progress)
        if starts and progress.images_total == 10 * len(starts):
            start = starts.pop(0)
            make_shard(other, start, start + 10, [IMAGES], f"other-{start:05d}")

    team = Team("cpu", WorkerSize(MORE_CPUS, 0), None, is_private=False, grows=True)
    with connected(cluster.address, None, use_gpu=False), lookout.looking():
        driver = Driver(
            job, team, "waiting", heard, StopRequest(), limits=Limits(start_s=0.1), lookout=lookout
        )
        report = driver.run([ShardTask(start, start + 10, (IMAGES,)) for start in starts])
    assert sorted(report.left_out) == [(IMAGES, 0, 10), (IMAGES, 10, 20)]
    assert report.commits == []
    assert [one.images_total for one in seen][:1] == [20]
    assert all(one.images_done == 0 and one.loading for one in seen)
    wanted = "waiting for a machine with 9 CPU, which Ray's autoscaler was asked for"
    assert {one.waits_for for one in seen} == {wanted}


class EnoughError(Exception):
    """Ends the waiting."""


def test_who_asks_for_numerics_waits_for_a_machine_of_a_cluster_that_grows(
    cluster: HostedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than one that is there is given to answer; and says so again and again."""
    monkeypatch.setattr(team_module, "_PROBE_S", 0.5)
    said: list[str] = []

    def notice(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise EnoughError

    on_gpus = Team("cuda", WorkerSize(1, 1), None, is_private=False)
    with connected(cluster.address, None, use_gpu=True):
        with pytest.raises(EnvironmentProblem, match="no worker of the cluster has answered"):
            numerics_of_workers(on_gpus, notice)
        assert said == []
        with pytest.raises(EnoughError):
            numerics_of_workers(dataclasses.replace(on_gpus, grows=True), notice)
    wanted = "waiting for a machine with 1 CPU and 1 GPU, which Ray's autoscaler was asked for"
    assert set(said) == {wanted}


def test_whose_process_is_there_has_to_tell_the_numerics(
    cluster: HostedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what was waited for, so that still nothing is free."""

    class Mute:
        def numerics(self, kind: str) -> None:
            time.sleep(600)

    def notice(text: str) -> None:
        said.append(text)
        assert len(said) < 100, "it is waited for without an end"

    said: list[str] = []
    monkeypatch.setattr(team_module, "_PROBE_S", 0.5)
    monkeypatch.setattr(team_module, "Witness", Mute)
    monkeypatch.setattr(team_module, "Limits", functools.partial(Limits, start_s=0.5))
    monkeypatch.setattr(team_module, "current_nodes", tuple)
    team = Team("cpu", WorkerSize(1, 0), None, is_private=False, grows=True)
    with (
        connected(cluster.address, None, use_gpu=False),
        pytest.raises(EnvironmentProblem, match="no worker of the cluster has answered"),
    ):
        numerics_of_workers(team, notice)
    assert said


def test_a_worker_whose_process_says_nothing_waits_for_no_machine(cluster: HostedCluster) -> None:
    """It has its place, is given the time of a start, and is not hung before it has spoken."""

    class Mute:
        def __init__(self) -> None:
            time.sleep(600)

    job: Any = None
    crew = Crew(job, Team("cpu", WorkerSize(1, 0), None, is_private=False, grows=True))
    with connected(cluster.address, None, use_gpu=False):
        actors = [ray.remote(num_cpus=number)(Mute).remote() for number in (MORE_CPUS, 1)]
        waits, mute = (Worker("worker", actor, loading=object()) for actor in actors)
        crew.workers = [waits]
        crew.check_loading(0, [])
        assert crew.waits_for([])
        crew.workers = [waits, mute]

        def is_there() -> bool:
            crew.check_loading(900, [])
            return not crew.waits_for([])

        wait_for(is_there)
        with pytest.raises(EnvironmentProblem, match="has not begun"):
            crew.check_loading(0, [])
    assert waits.placed_s is None
    assert mute.placed_s is not None
    assert not mute.has_answered
    mute.answered_s -= 100
    assert Limits().hung(mute, [], others_work=False) == ""


def test_a_person_is_told_what_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView() as view:
        view.show(Progress(0, 20, 1, 0, loading=True, waits_for="waiting for a machine"))
    assert capsys.readouterr().err == "images 0/20, waiting for a machine\n"
