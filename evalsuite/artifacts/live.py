"""Live files: what an invocation is doing now, replaced every few seconds while it lives.

`live/<invocation>.json` in the run directory, removed at the end. One that stays behind belongs to
an invocation that was killed, and says how far it had come.
"""

import os
import platform
import time
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from evalsuite.artifacts.storage import Storage
from evalsuite.config import Frozen, parse_json
from evalsuite.errors import StorageError

LIVE_SCHEMA = 1
FOLDER = "live"
SILENT_S = 60.0
"""Without a sign of life for so long, and four times its period, an invocation counts as silent."""


class Life(Enum):
    """Whether the process of an invocation lives."""

    RUNNING = "running"
    SILENT = "silent"
    """Its process is there, but it has given no sign of life: stopped, or its disk hangs."""
    KILLED = "killed"
    """Its process is gone."""
    LOST = "lost"
    """Of another machine, without a sign of life: killed, or cut off."""


class Cost(Frozen):
    """What an invocation took; None where it was not measured or does not apply."""

    gpu_hours: float = 0.0
    """Time that workers held GPUs, loading and waiting included, times the GPUs of each."""
    cpu_hours: float = 0.0
    """Time that workers without a GPU held their one core."""
    energy_joules: float | None = None
    """Of the GPUs, by NVML, for all shards that were computed to their end; None when the energy of
    any that was committed is not known."""
    price_per_gpu_hour: float | None = None
    money: float | None = None
    """gpu_hours * price_per_gpu_hour, in the currency of the price."""


class Counts(Frozen):
    """What happened in an invocation so far."""

    shards_committed: int = 0
    shards_retried: int = 0
    shards_computed_twice: int = 0
    """Attempts that came second: their bytes were compared, and their files removed."""
    shards_copied: int = 0
    """Second attempts that were begun because the first was slow."""
    shards_quarantined: int = 0
    workers_started: int = 0
    workers_lost: int = 0


class Hold(Frozen):
    """A shard that a worker has in hand: samples start..stop-1."""

    start: int
    stop: int
    since: float
    """Seconds since the epoch."""


class LiveWorker(Frozen):
    """One worker process and what it has in hand."""

    name: str
    host: str = ""
    pid: int | None = None
    device: str = ""
    state: str
    """`loading` or `ready`."""
    since: float
    holds: tuple[Hold, ...] = ()


class LiveInvocation(Frozen):
    """The content of a live file."""

    schema_version: int = LIVE_SCHEMA
    invocation_id: str
    command: str
    host: str
    machine: str
    """Names the space in which `pid` has a meaning: a boot of a machine, or of a container."""
    pid: int
    process_started: str
    """Field 22 of /proc/PID/stat: a pid that is given again is not mistaken for ours."""
    started_at: float
    beat_at: float
    """When this file was written, by the writer's clock."""
    every_s: float
    """How often it is written."""
    images_done: int = 0
    """Computed by this invocation."""
    images_total: int = 0
    """That this invocation is to make."""
    images_per_second: float | None = None
    """Of late; None before anything can be said."""
    workers: tuple[LiveWorker, ...] = ()
    counts: Counts = Field(default_factory=Counts)
    cost: Cost = Field(default_factory=Cost)

    @property
    def path(self) -> str:
        """Place in the run directory."""
        return f"{FOLDER}/{self.invocation_id}.json"


class Process(NamedTuple):
    """A process, so that it can be told from a later one of the same pid."""

    host: str
    machine: str
    pid: int
    started: str


def this_process() -> Process:
    """This very process."""
    pid = os.getpid()
    return Process(platform.node(), machine_id(), pid, process_started(pid) or "")


def machine_id() -> str:
    """Of this boot and this space of process numbers; "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return f"{boot} {space}"


def process_started(pid: int) -> str | None:
    """When a process of this machine began, in clock ticks since boot; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


def life_of(live: LiveInvocation, now: float | None = None) -> Life:
    """Whether the invocation lives: by its process on this machine, else by its signs of life.

    Args:
        live: its file.
        now: seconds since the epoch; the clock's by default.
    """
    silence = silence_of(live, now)
    is_silent = silence > max(SILENT_S, 4 * live.every_s)
    if live.machine and live.machine == machine_id():
        if process_started(live.pid) != live.process_started:
            return Life.KILLED
        return Life.SILENT if is_silent else Life.RUNNING
    return Life.LOST if is_silent else Life.RUNNING


def silence_of(live: LiveInvocation, now: float | None = None) -> float:
    """Seconds since the last sign of life, by this machine's clock."""
    return max(0.0, (time.time() if now is None else now) - live.beat_at)


def write_live(storage: Storage, live: LiveInvocation) -> None:
    """Write or replace an invocation's live file.

    Raises:
        StorageError: it cannot be written.
    """
    storage.replace(live.path, (live.model_dump_json(indent=1) + "\n").encode())


def remove_live(storage: Storage, invocation_id: str) -> None:
    """Remove an invocation's live file: it has ended, and its attempt says how."""
    storage.delete(f"{FOLDER}/{invocation_id}.json")


def read_live(storage: Storage) -> dict[str, LiveInvocation]:
    """All live files by invocation; one that vanishes meanwhile or cannot be read is left out.

    They are news, not truth: what is committed never depends on them.
    """
    found = {}
    for name in storage.names(FOLDER, ".json"):
        try:
            live = LiveInvocation.model_validate(parse_json(storage.read(f"{FOLDER}/{name}")))
        except (StorageError, ValueError):
            continue
        found[live.invocation_id] = live
    return found
