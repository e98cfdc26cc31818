"""A driver on one node of a cluster, whose workers only wait: told the address and a file.

It writes the process number of its own node manager into the file once a worker works, and ends
with what ended the driver on standard error.
"""

import os
import sys
from pathlib import Path
from typing import Any

import ray
import test_gpu_nodes
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from test_gpu_nodes import WaitingJob, WaitingWorker

from evalsuite.errors import EvalsuiteError
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.runtime import workers
from evalsuite.runtime.cluster import connected
from evalsuite.runtime.driver import Driver
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.signals import StopRequest, signals_to
from evalsuite.runtime.team import Team
from evalsuite.runtime.workers import WorkerSize

SHARD_S = 120.0


def parent_of_worker() -> int:
    """The node manager that started the process which is asked."""
    return os.getppid()


def main() -> None:
    """Drive until something ends it."""
    address, told = sys.argv[1], Path(sys.argv[2])
    ray.cloudpickle.register_pickle_by_value(test_gpu_nodes)
    workers._PLAIN[WaitingJob] = WaitingWorker  # type: ignore[index, assignment]
    stop = StopRequest()
    job: Any = WaitingJob(SHARD_S, "", 1.0)

    heard_of_work = 0

    def heard(progress: Progress) -> None:
        nonlocal heard_of_work
        heard_of_work += not progress.loading
        if heard_of_work == 2:  # shards were handed out by now
            told.write_text(str(raylet))

    with connected(address, None, use_gpu=False), signals_to(stop):
        home = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        parent = ray.remote(num_cpus=0)(parent_of_worker).options(scheduling_strategy=home)
        raylet = ray.get(parent.remote())
        team = Team("cpu", WorkerSize(1, 0), 1, is_private=False)
        driver = Driver(job, team, "homeless", heard, stop)
        try:
            driver.run([ShardTask(i, i + 10, ("images",)) for i in range(0, 200, 10)])
        except EvalsuiteError as error:
            print(error, file=sys.stderr, flush=True)  # noqa: T201
            os._exit(error.exit_code)  # what `connected` does at its end is not of interest


if __name__ == "__main__":
    main()
