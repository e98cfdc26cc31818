"""Workers without Ray that make the same shard at the same time, one of them held in its commit."""

import threading
from pathlib import Path

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import CommitReport, ShardWorker, WorkerJob

HELD_S = 120.0


class HeldStorage(LocalStorage):
    """Stands still, as a frozen node does, after the data files and before the receipt."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.released = threading.Event(), threading.Event()

    def commit(self, relative: str, content: bytes) -> bool:
        if relative.startswith("receipts/"):
            self.reached.set()
            assert self.released.wait(HELD_S)
        return super().commit(relative, content)


def made_by(root: Path, attempt_id: str, storage: LocalStorage | None = None) -> CommitReport:
    """Make samples 0..19 of a run with their features, by a storage of one's own."""
    extractor = load_spec(ExtractorSpec, "digits-convnet")
    materials = resolve_plan(PlanOptions("pixnerd-digits")).materials
    worker = ShardWorker(
        WorkerJob(str(root), materials, (extractor,), OutputFormat("all", "parquet"), "cpu")
    )
    worker.load()
    if storage is not None:
        worker._run = RunDirectory(storage, RunDirectory.open(root).manifest)
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
    return report
