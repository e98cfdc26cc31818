"""Watches one invocation: keeps its tally, its live file, its log and its metrics."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalsuite.artifacts.live import LiveInvocation, remove_live, this_process, write_live
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import EvalsuiteError
from evalsuite.runtime.events import Event
from evalsuite.runtime.observing.heart import Heart
from evalsuite.runtime.observing.log import EventLog
from evalsuite.runtime.observing.metrics import RunMetrics
from evalsuite.runtime.observing.tally import Tally
from evalsuite.runtime.progress import Progress

BEAT_S = 3.0
"""Between two writings of a live file; on an object store, five times as long."""


class Watch:
    """What a session tells its events and progress to."""

    def __init__(
        self,
        run: RunDirectory,
        invocation_id: str,
        command: str,
        *,
        gpus_per_worker: float = 1.0,
        price_per_gpu_hour: float | None = None,
    ) -> None:
        """Begin to watch.

        Args:
            run: what is worked on; live file and log are written there.
            invocation_id: who works on it.
            command: `run` or `generate`.
            gpus_per_worker: GPUs, or the part of one, that each worker holds.
            price_per_gpu_hour: for the money; None when none is reckoned.
        """
        self._storage = run.storage
        self.tally = Tally(gpus_per_worker=gpus_per_worker, price_per_gpu_hour=price_per_gpu_hour)
        self.log = EventLog(run, invocation_id)
        self._metrics = RunMetrics(
            self.tally,
            {
                "run": run.root.name,
                "plan": run.manifest.plan_id[:12],
                "invocation": invocation_id,
            },
        )
        process = this_process()
        every_s = BEAT_S * (1 if isinstance(run.root, Path) else 5)
        self._first = LiveInvocation(
            invocation_id=invocation_id,
            command=command,
            host=process.host,
            machine=process.machine,
            pid=process.pid,
            process_started=process.started,
            started_at=time.time(),
            beat_at=time.time(),
            every_s=every_s,
        )
        self._heart = Heart(every_s, (self.beat, self.log.beat))

    def observe(self, event: Event) -> None:
        """Take in one of the driver's events."""
        self.tally.observe(event)
        self.log.observe(event)
        self._metrics.observe(event)

    def progress(self, standing: Progress) -> None:
        """Take in how far the driver is."""
        self.tally.progress(standing)
        self._metrics.show()

    def beat(self) -> None:
        """Give a sign of life; a disk that takes none does not end the run."""
        done, total = self.tally.images
        live = self._first.model_copy(
            update={
                "beat_at": time.time(),
                "images_done": done,
                "images_total": total,
                "images_per_second": self.tally.images_per_second,
                "workers": self.tally.workers,
                "counts": self.tally.counts,
                "cost": self.tally.cost(),
            }
        )
        with contextlib.suppress(EvalsuiteError):
            write_live(self._storage, live)

    def summary(self) -> dict[str, Any]:
        """For the attempt's file: `counts` and `cost`."""
        return {
            "counts": self.tally.counts.model_dump(mode="json"),
            "cost": self.tally.cost().model_dump(mode="json"),
        }

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life within the block; what ends it is logged.

        The live file is removed at the end, when the attempt's file tells the rest.
        """
        self.log.note("started", host=self._first.host, pid=self._first.pid)
        self.beat()  # at once: of two that begin together one sees the other
        self._heart.start()
        try:
            yield
        except BaseException as error:
            self.log.failed(error)
            raise
        else:
            self.log.note("complete", host=self._first.host, pid=self._first.pid)
        finally:
            self._heart.stop()
            self.log.close()
            with contextlib.suppress(EvalsuiteError):
                remove_live(self._storage, self._first.invocation_id)
