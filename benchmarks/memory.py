"""Whether resident memory grows with the number of shards: a line through what was seen."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evalsuite.pipeline.worker import ShardWorker

_EVERY_S = 0.5
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 2**20


class Growth(NamedTuple):
    """Resident memory of one process over its shards.

    Attributes:
        who: the process.
        shards: at the end.
        bytes_per_shard: slope of the line through the later two thirds of the shards.
        third_bytes: when a third of the shards was done.
        end_bytes: at the end.
    """

    who: str
    shards: int
    bytes_per_shard: float
    third_bytes: int
    end_bytes: int

    def text(self) -> str:
        """In one line."""
        return (
            f"{self.who:8} {self.shards} shards, {self.third_bytes / MIB:.0f} MiB after a third,"
            f" {self.end_bytes / MIB:.0f} MiB at the end, {self.bytes_per_shard / 1024:+.2f} KiB"
            " per shard"
        )


def growth_of(who: str, seen: Sequence[tuple[float, int]]) -> Growth:
    """From (shards done, resident bytes), in the order of time."""
    shards, resident = (np.array(column, float) for column in zip(*seen, strict=True))
    later = shards >= shards[-1] / 3
    slope = float(np.polyfit(shards[later], resident[later], 1)[0])
    return Growth(who, int(shards[-1]), slope, int(resident[later][0]), int(resident[-1]))


def resident_bytes(pid: int) -> int:
    """Of a process; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(text.split()[1]) * _PAGE_BYTES


def growth_of_worker(run: Callable[[], Any], worker: ShardWorker, shard_size: int) -> Growth:
    """Look at this process while `run` lets the worker make shards."""
    seen: list[tuple[float, int]] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_EVERY_S):
            seen.append((worker.progress() / shard_size, resident_bytes(os.getpid())))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    run()
    done.set()
    thread.join()
    return growth_of("worker", seen)


def growth_of_run(folder: Path, num_shards: int) -> list[Growth]:
    """Look at the driver and the worker of `evalsuite generate` with shards of ten digits."""
    options = ["--model", "pixnerd-digits", "--num-steps", "2", "--batch-size", "10", "--yes"]
    command = [sys.executable, "-m", "evalsuite", "generate", *options, "--device", "cpu"]
    command += ["--num-samples", str(10 * num_shards), "--shard-size", "10"]
    command += ["--num-workers", "1", "--output", str(folder / "run")]
    seen: dict[str, list[tuple[float, int]]] = {"driver": [], "its worker": []}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
        while driver.poll() is None:
            time.sleep(_EVERY_S)
            done = _num_files(folder / "run" / "receipts" / "images")
            worker = _worker_below(driver.pid)
            for who, pid in (("driver", driver.pid), ("its worker", worker)):
                if done and pid and (found := resident_bytes(pid)):
                    seen[who].append((done, found))
    if driver.returncode:
        raise SystemExit(f"the run ended with exit code {driver.returncode}")
    return [growth_of(who, found) for who, found in seen.items()]


def _num_files(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _worker_below(driver_pid: int) -> int | None:
    """The worker's process in the driver's own Ray."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
                if title.startswith(b"ray::ShardWorker") and _descends(int(entry.name), driver_pid):
                    return int(entry.name)
            except OSError:
                continue
    return None


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        pid = int(stat.rpartition(")")[2].split()[1])
        if pid == ancestor:
            return True
    return False
