"""Ending what Ray leaves behind when its start is interrupted: agents that outlive their raylet.

Measured on Ray 2.60: `ray.shutdown` after an interrupted `ray.init` knows of no node, and the
dashboard and runtime-environment agents go on for more than a minute.
"""

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process; with its start time, because numbers are given again."""

    pid: int
    started: str


def children() -> set[Process]:
    """Direct children of this process; none where there is no /proc."""
    mine = os.getpid()
    return {child for child, parent in _parents().items() if parent == mine}


def below(roots: set[Process]) -> set[Process]:
    """`roots` and everything that they started."""
    parents = _parents()
    found: set[Process] = set()
    level = roots
    while level:
        found |= level
        numbers = {process.pid for process in level}
        level = {child for child, parent in parents.items() if parent in numbers} - found
    return found


def end(processes: set[Process]) -> None:
    """Kill those that still run."""
    for process in processes & _parents().keys():
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)


def _parents() -> dict[Process, int]:
    """Every process of this machine with its parent's number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            found[Process(int(entry.parent.name), fields[19])] = int(fields[1])
    return found
