"""Faults of one worker: killed, stopped, out of memory."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fault_base import Driver, Fault, Holding, parent_of, title_of
from harness import is_running, wait_for
from machines import memory_in_use, memory_limited
from phases import BEFORE_DATA, DATA_TO_RECEIPT, OF_A_SHARD, Point

if TYPE_CHECKING:
    from trial import Trial

LATE_S = 10.0
"""A node manager's log may have its line a moment after the worker is gone."""


class WorkerKilled(Fault):
    """SIGKILL to a worker, up to three times in one run."""

    name = "worker killed"
    counts_rules = True

    def arm(self, trial: "Trial") -> None:
        shards = trial.chance.sample(range(10, 80, 10), trial.chance.choice([1, 2, 3]))
        for place, shard in enumerate(shards):
            phase = trial.chance.choice(OF_A_SHARD) if place else None
            trial.arm(trial.point(phase, shard), "kill", phase=phase)


class WorkerTruncates(Fault):
    """A worker cuts its data file to a half and dies before the receipt."""

    name = "worker truncates its file and dies"
    phases = (DATA_TO_RECEIPT,)

    def arm(self, trial: "Trial") -> None:
        folder = trial.chance.choice(["images", "features/*"])
        pattern = f"{folder}/{trial.shard():010d}-*"
        trial.arm(Point("fsync", trial.chance.choice(["before", "after"]), pattern), "truncate")


class WorkerOutOfMemory(Holding):
    """The kernel ends a worker whose memory group is full."""

    name = "worker out of memory"

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        with memory_limited(pid, 64 * 2**20) as group:
            trial.note("killed by the kernel" if group else "no memory group here: SIGKILL")
            trial.scene.release(trial.rules[0], "eat" if group else "kill")
            wait_for(lambda: not is_running(pid), 60)


class MonitorKills(Holding):
    """Ray's memory monitor ends a worker that takes more than the machine is said to have."""

    name = "memory monitor kills a worker"
    phases = (BEFORE_DATA, DATA_TO_RECEIPT)
    is_hosted = False
    said = ""
    """By the monitor; without a word of it, the kernel ended the worker, whose group is limited."""

    def arm(self, trial: "Trial") -> None:
        trial.num_workers = 1
        threshold = memory_in_use() + 0.05
        trial.env = {
            "RAY_memory_usage_threshold": f"{threshold:.3f}",
            "RAY_memory_monitor_refresh_ms": "100",
        }
        super().arm(trial)

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        logs = Path(session_of(parent_of(pid)), "logs")
        with memory_limited(pid, 4 * 2**30):
            trial.scene.release(trial.rules[0], "eat")
            wait_for(lambda: not is_running(pid), 120)
        deadline = time.monotonic() + LATE_S
        while not (said := killing_line(logs)) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.said = said
        trial.note(f"the monitor said: {said[:160]}" if said else "the monitor said nothing")

    def struck(self, trial: "Trial") -> list[str]:
        return super().struck(trial) if self.said else []


def killing_line(logs: Path) -> str:
    """What a node manager's log says of a worker that its memory monitor ended; "" without."""
    lines = (
        line
        for log in logs.glob("raylet*")
        for line in log.read_text(errors="replace").splitlines()
    )
    words = ("memory", "kill")
    return next((line for line in lines if all(word in line.lower() for word in words)), "")


class WorkerStopped(Fault):
    """SIGSTOP to a worker: it neither dies nor answers."""

    name = "worker stopped"

    def arm(self, trial: "Trial") -> None:
        trial.arm(trial.point(), "stop")

    def strike(self, trial: "Trial", driver: Driver) -> None:
        event = trial.wait_met(trial.rules[0], driver)
        outcome_at = time.monotonic()
        driver.wait(timeout=400)
        trial.note(f"the command ended {time.monotonic() - outcome_at:.0f} s after the stop")
        if is_running(event["pid"]):
            trial.note("the stopped worker was left")
            with contextlib.suppress(ProcessLookupError):
                os.kill(event["pid"], signal.SIGKILL)


def session_of(raylet: int) -> str:
    """The session directory of a node manager, which its command line names."""
    found = re.search(r"--session[_-]dir=(\S+)", title_of(raylet))
    assert found, title_of(raylet)
    return found[1]
