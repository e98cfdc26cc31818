"""A program that works on a run as far as `status` can see: `watched.py RUN INVOCATION SECONDS`.

It is told of two workers, one of which commits a shard while the other is lost, and then of nothing
but progress, one image a tenth of a second.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.runtime.events import Event
from evalsuite.runtime.observing.watch import Watch
from evalsuite.runtime.progress import Progress


class NoMetrics:
    """There is no Ray here."""

    def observe(self, event: Event) -> None: ...

    def show(self) -> None: ...


def main() -> None:
    run, invocation = RunDirectory.open(Path(sys.argv[1])), sys.argv[2]
    watch = Watch(run, invocation, "run", price_per_gpu_hour=2.5)
    watch._metrics = NoMetrics()
    on = {"host": "node-a", "device": "cuda:0"}
    one, other = {"worker": "worker-0", "pid": 10, **on}, {"worker": "worker-1", "pid": 11, **on}
    began = time.time() - 3600
    resolved = {"num_samples": 90, "extractors": []}
    attempt = {"invocation_id": invocation, "outcome": "running", "resolved": resolved}
    run.write_json(
        f"attempts/{invocation}.json", attempt | {"started_at": "2026-01-31T12:00:00+00:00"}
    )
    with watch.beating():
        for event in (
            Event("worker-starting", worker="worker-0"),
            Event("worker-starting", worker="worker-1"),
            Event("worker-ready", **one),
            Event("worker-ready", **other),
            Event("shard-handed", start=0, stop=32, **one),
            Event("shard-handed", start=32, stop=64, **other),
            Event("shard-committed", start=0, stop=32, seconds=9.0, **one),
            Event("worker-lost", **other),
            Event("shard-retried", start=32, stop=64, **other),
            Event("shard-handed", start=32, stop=64, **one),
        ):
            watch.observe(replace(event, time=began))
        for tenth in range(int(10 * float(sys.argv[3]))):
            watch.progress(Progress(min(32 + tenth, 90), 90, 1, 1, loading=False))
            time.sleep(0.1)


if __name__ == "__main__":
    main()
