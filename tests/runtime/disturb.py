"""Ways to watch and disturb a real run."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from harness import Outcome, Process, descendants


class KilledRun(NamedTuple):
    """A run whose driver and its whole process group were killed in the middle."""

    path: Path
    num_processes: int
    """Processes that the driver had."""
    num_workers: int
    """Those among them that made shards."""
    idle: list[str]
    """Those among them that Ray had started for nobody."""
    left: list[str]
    """Those that still ran half a minute later."""


class SpreadRun(NamedTuple):
    """A run of the command line on the cluster: three workers, NPZ shards of 30."""

    path: Path
    outcome: Outcome
    nodes: set[int]
    """Node managers that had a worker."""


class LosingRun(NamedTuple):
    """A run that lost a worker in the middle and ended by itself."""

    path: Path
    outcome: Outcome


def num_receipts(run: Path) -> int:
    """Committed image shards."""
    return len(list((run / "receipts" / "images").glob("*.json")))


def workers_below(pid: int) -> list[Process]:
    """The worker processes of the Ray below a process.

    A program that one of them starts has its title for a moment, and is none.
    """
    found = [p for p in descendants(pid) if p.title.startswith("ray::ShardWorker")]
    workers = {process.pid for process in found}
    return [process for process in found if process.parent not in workers]


@contextlib.contextmanager
def watched_workers(
    pid: int, meet: Callable[[Process], None] = lambda worker: None
) -> Iterator[set[Process]]:
    """The worker processes that live below `pid` during the block; each is told to `meet` once."""
    seen: set[Process] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.15):
            for worker in set(workers_below(pid)) - seen:
                seen.add(worker)
                meet(worker)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
