"""A worker process that makes one shard without Ray, and may stop itself in its commit.

Arguments: run directory, attempt id, and `stop` or `go`. Prints what became of the attempt as JSON.
"""

import json
import os
import signal
import sys
import threading

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import ShardWorker, WorkerJob


class StoppingStorage(LocalStorage):
    """Stops the process, as a frozen node does, after the data files and before the receipt."""

    def commit(self, relative: str, content: bytes) -> bool:
        if relative.startswith("receipts/"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().commit(relative, content)


def main() -> None:
    """Make samples 0..19 with their features."""
    root, attempt_id, mode = sys.argv[1:]
    extractor = load_spec(ExtractorSpec, "digits-convnet")
    materials = resolve_plan(PlanOptions("pixnerd-digits")).materials
    worker = ShardWorker(
        WorkerJob(root, materials, (extractor,), OutputFormat("all", "parquet"), "cpu")
    )
    worker.load()
    if mode == "stop":
        run = RunDirectory.open(root)
        worker._run = RunDirectory(StoppingStorage(run.root), run.manifest)
    task = ShardTask(0, 20, ("images", f"features/{extractor.extractor_id}"))
    threads = [
        threading.Thread(target=part, args=(task, attempt_id))
        for part in (worker.prepare, worker.compute)
    ]
    for thread in threads:
        thread.start()
    report = worker.commit(task, attempt_id)
    for thread in threads:
        thread.join()
    print(json.dumps({"committed": report.committed, "discarded": report.discarded}))  # noqa: T201


if __name__ == "__main__":
    main()
