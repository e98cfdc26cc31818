"""Workers that wait instead of computing: many of them in a few async Ray actors."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from evalsuite.artifacts.receipts import (
    Receipt,
    ReceiptFile,
    commit_receipt,
    digest_of_pixels,
    range_name,
)
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.pipeline.channel import NotWantedError
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import CommitReport
from evalsuite.runtime.team import Team
from evalsuite.runtime.workers import Worker

WRITING_S = 0.05


def commit_empty(run: RunDirectory, task: ShardTask, attempt_id: str) -> bool:
    """A real receipt of a file that nobody wrote; whether it is the first of its shard."""
    hashes = ("0" * 64,) * (task.stop - task.start)
    path = f"{IMAGES}/{range_name(task.start, task.stop)}-{attempt_id}.parquet"
    receipt = Receipt(
        plan_id=run.manifest.plan_id,
        stage=IMAGES,
        stage_version=1,
        start=task.start,
        stop=task.stop,
        attempt_id=attempt_id,
        files=(ReceiptFile(path=path, num_bytes=0, sha256="0" * 64),),
        kept="none",
        pixel_sha256=hashes,
        pixels_digest=digest_of_pixels(hashes),
        nfe=99,
        seconds={"compute": 1.0},
        numerics_id="0" * 64,
        numerics={},
        worker={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    return commit_receipt(run.storage, receipt)


class Host:
    """An async actor with many virtual workers; each computes one shard at a time.

    Args:
        shard_s: seconds of a shard.
        slow: how many times longer a worker takes.
        run_root: the run in which they commit.
    """

    def __init__(self, shard_s: float, slow: dict[int, float], run_root: str) -> None:
        self._shard_s, self._slow = shard_s, slow
        self._run = RunDirectory.open(run_root)
        self._gpus: dict[int, asyncio.Lock] = {}
        self._done: dict[str, asyncio.Event] = {}
        self._withdrawn: dict[str, asyncio.Event] = {}
        self._computed: dict[int, int] = {}
        self._parts: dict[str, int] = {}
        self.busy_s = 0.0

    async def load(self, worker: int) -> dict[str, Any]:
        """What a worker says when it is ready."""
        self._gpus[worker] = asyncio.Lock()
        return {"host": f"node{worker // 8}", "numerics_id": "0" * 64, "device": "cuda:0"}

    async def prepare(self, worker: int, task: ShardTask, attempt_id: str) -> None:
        """Nothing to draw."""

    async def compute(self, worker: int, task: ShardTask, attempt_id: str) -> None:
        """Wait as long as a shard takes, or until it is withdrawn."""
        size, shard_s = task.stop - task.start, self._shard_s * self._slow.get(worker, 1.0)
        async with self._gpus[worker]:
            began = time.monotonic()
            withdrawn = self._withdrawn.setdefault(attempt_id, asyncio.Event())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(withdrawn.wait(), shard_s)
            took_s = time.monotonic() - began
        self.busy_s += took_s
        share = min(took_s / max(shard_s, 1e-9), 1.0) if withdrawn.is_set() else 1.0
        self._parts[attempt_id] = int(size * share)
        self._computed[worker] = self._computed.get(worker, 0) + self._parts[attempt_id]
        self._done.setdefault(attempt_id, asyncio.Event()).set()

    async def commit(self, worker: int, task: ShardTask, attempt_id: str) -> CommitReport:
        """Wait until it is computed and for the writing."""
        assert worker in self._gpus
        await self._done.setdefault(attempt_id, asyncio.Event()).wait()
        del self._done[attempt_id]
        num_computed = self._parts.pop(attempt_id)
        if self._withdrawn.pop(attempt_id).is_set():
            raise NotWantedError(attempt_id, num_computed)
        await asyncio.sleep(WRITING_S)
        first = await asyncio.to_thread(commit_empty, self._run, task, attempt_id)
        committed, discarded = (task.stages, ()) if first else ((), task.stages)
        return CommitReport(task, committed, discarded, self._shard_s + WRITING_S)

    async def withdraw(self, _: int, attempt_id: str) -> None:
        """Another worker has committed this shard; one that has not begun is not computed."""
        self._withdrawn.setdefault(attempt_id, asyncio.Event()).set()

    async def progress(self, worker: int) -> int:
        """Images computed."""
        return self._computed.get(worker, 0)

    async def busy(self) -> float:
        """Seconds that all workers computed."""
        return self.busy_s


@dataclass
class Call:
    """One method of a virtual worker, called as that of an actor."""

    method: Any
    worker: int

    def options(self, **_: str) -> "Call":
        """Concurrency groups are the virtual worker's own."""
        return self

    def remote(self, *arguments: object) -> Any:
        """A real Ray call."""
        return self.method.remote(self.worker, *arguments)


@dataclass
class VirtualActor:
    """Looks to the driver like the handle of an actor."""

    host: Any
    worker: int

    def __getattr__(self, name: str) -> Call:
        return Call(getattr(self.host, name), self.worker)


class VirtualWorker(Worker):
    """A worker whose process is not its own."""

    def kill(self) -> None:
        """Nothing to end."""


class ManySlots(Team):
    """As many workers as asked, whatever the machine holds."""

    def target(self, nodes: tuple[Any, ...], num_placed: int, num_open: int) -> int:  # noqa: ARG002
        """The number asked for."""
        return min(self.asked or 1, num_open)
