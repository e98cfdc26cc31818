"""Ways to watch and disturb a real run."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Process, descendants


def wait_for(happened: Callable[[], object], seconds: float = 90) -> object:
    """Wait until `happened` gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = happened()
        if value:
            return value
        time.sleep(0.01)
    pytest.fail(f"it did not happen within {seconds} s")


def num_receipts(run: Path) -> int:
    """Committed image shards."""
    return len(list((run / "receipts" / "images").glob("*.json")))


def workers_below(pid: int) -> list[Process]:
    """The worker processes of the Ray below a process."""
    return [p for p in descendants(pid) if p.title.startswith("ray::ShardWorker")]
