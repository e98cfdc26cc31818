"""Shards that are made piece by piece by workers of a cluster: features, verdicts on images."""

import secrets
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from evalsuite.errors import EnvironmentProblem, first_line
from evalsuite.pipeline.outside import numerics_there, shard_size_of, tasks_of
from evalsuite.pipeline.ranges import total
from evalsuite.runtime.cluster import Cluster
from evalsuite.runtime.driver import Driver, DriverReport
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest, signals_to
from evalsuite.runtime.team import gather_team
from evalsuite.runtime.watch import current_nodes
from evalsuite.runtime.workers import Job, environment_of
from evalsuite.runtime.workforce import PieceWork, Workforce

_PROBE_S = 300.0


def drive_pieces(
    cluster: Cluster,
    work: PieceWork,
    asked: Workforce,
    job_on: Callable[[str], Job],
    listener: Callable[[Progress], None],
    note: Callable[[DriverReport], None],
) -> None:
    """Have workers fill gaps, shard by shard.

    Args:
        cluster: that is connected.
        work: what is to be made.
        asked: how many workers, on which device.
        job_on: what workers of a kind, `cuda` or `cpu`, are to load.
        listener: is told the progress.
        note: is told what was done, also when it fails.

    Raises:
        EvalsuiteError: what ended the work; what was committed stays.
    """
    stop = StopRequest()
    with signals_to(stop):
        missing, nodes = total(work.gaps), current_nodes()
        team = gather_team(cluster, nodes, asked.num_workers, asked.device)
        count = team.target(nodes, 0, -(-missing // work.batch_size))
        size = shard_size_of(missing, count, work.batch_size, team.kind)
        tasks = tasks_of(work.gaps, size, work.batch_size, work.stage)
        driver = Driver(job_on(team.kind), team, secrets.token_hex(4), listener, stop)
        try:
            driver.run(tasks)
        finally:
            note(driver.report)


def numerics_of_workers(cluster: Cluster, asked: Workforce) -> dict[str, Any]:
    """What decides bits where the workers run that `drive_pieces` will start.

    Raises:
        EnvironmentProblem: no worker answers.
    """
    kind = gather_team(cluster, current_nodes(), asked.num_workers, asked.device).kind
    on_gpu = kind == "cuda"
    question = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0, max_retries=0)(numerics_there)
    answer = question.options(runtime_env={"env_vars": environment_of(on_gpu=on_gpu)}).remote(kind)
    try:
        found: dict[str, Any] = ray.get(answer, timeout=_PROBE_S)
    except RayError as error:
        raise EnvironmentProblem(
            f"no worker of the cluster has answered: {first_line(error)}; look at `ray status`"
        ) from error
    return found
