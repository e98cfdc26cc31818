"""Shards that are made piece by piece by workers of a cluster: features, verdicts on images."""

import secrets
from collections.abc import Callable, Sequence

from evalsuite.pipeline.outside import shard_size_of, tasks_of
from evalsuite.pipeline.ranges import total
from evalsuite.runtime.cluster import Cluster
from evalsuite.runtime.driver import LIMITS, Driver, DriverReport
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest, signals_to
from evalsuite.runtime.team import look_around
from evalsuite.runtime.watch import Node
from evalsuite.runtime.workers import Job
from evalsuite.runtime.workforce import PieceWork, Workforce


def drive_pieces(
    cluster: Cluster,
    work: PieceWork,
    asked: Workforce,
    job_on: Callable[[Sequence[Node], str], Job],
    listener: Callable[[Progress], None],
    note: Callable[[DriverReport], None],
) -> None:
    """Have workers fill gaps, shard by shard.

    Args:
        cluster: that is connected.
        work: what is to be made.
        asked: how many workers, on which device.
        job_on: what workers of a kind, `cuda` or `cpu`, are to load, on machines such as are there.
        listener: is told the progress.
        note: is told what was done, also when it fails.

    Raises:
        EvalsuiteError: what ended the work; what was committed stays.
    """
    stop = StopRequest()
    with signals_to(stop):
        missing = total(work.gaps)
        nodes, team = look_around(
            cluster,
            asked.num_workers,
            asked.device,
            asked.gpus_per_worker,
            shared=work.shared,
            remedy=work.remedy,
        )
        count = team.target(nodes, 0, -(-missing // work.batch_size))
        size = shard_size_of(missing, count, work.batch_size, team.kind)
        tasks = tasks_of(work.gaps, size, work.batch_size, work.stage)
        limits = LIMITS._replace(piece_s=work.piece_s)
        job, invocation_id = job_on(nodes, team.kind), secrets.token_hex(4)
        driver = Driver(job, team, invocation_id, listener, stop, limits=limits)
        try:
            driver.run(tasks)
        finally:
            note(driver.report)
