"""What another invocation makes while no worker of this one can start: the driver ends with it."""

from pathlib import Path

import pytest
from harness import HostedCluster
from run_maker import make_shard, new_run, new_worker, resolved

from evalsuite.artifacts.run_directory import IMAGES
from evalsuite.pipeline.company import Lookout
from evalsuite.pipeline.coverage import Demand
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import WorkerJob
from evalsuite.runtime.cluster import connected
from evalsuite.runtime.driver import Driver
from evalsuite.runtime.hanging import Limits
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest
from evalsuite.runtime.team import Team
from evalsuite.runtime.workers import WorkerSize

pytestmark = pytest.mark.ray
MORE_CPUS = 9.0
"""Than any node has: workers of this size wait for their place."""


def test_the_last_receipt_ends_a_driver_without_workers(
    cluster: HostedCluster, tmp_path: Path
) -> None:
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

    team = Team("cpu", WorkerSize(MORE_CPUS, 0), None, is_private=False)
    with connected(cluster.address, None, use_gpu=False), lookout.looking():
        driver = Driver(
            job, team, "waiting", heard, StopRequest(), limits=Limits(start_s=30), lookout=lookout
        )
        report = driver.run([ShardTask(start, start + 10, (IMAGES,)) for start in starts])
    assert sorted(report.left_out) == [(IMAGES, 0, 10), (IMAGES, 10, 20)]
    assert report.commits == []
    assert [one.images_total for one in seen][:1] == [20]
    assert all(one.images_done == 0 for one in seen)
