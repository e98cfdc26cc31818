"""Ending what Ray leaves behind when its start is interrupted: agents that outlive their raylet.

Measured on Ray 2.60: `ray.shutdown` after an interrupted `ray.init` knows of no node, and the
dashboard and runtime-environment agents go on for more than a minute.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Process(NamedTuple):
    """A process; with its start time, because numbers are given again."""

    pid: int
    started: str


@contextlib.contextmanager
def no_leftovers() -> Iterator[None]:
    """Around `ray.init` and `ray.shutdown`: kill what was started inside and still runs after it.

    Only children that this process got inside the block, and theirs; without /proc it does nothing.
    """
    mine = os.getpid()
    before = {child for child, parent in _parents().items() if parent == mine}
    ours: set[_Process] = set()
    try:
        try:
            yield
        except BaseException:
            ours = _below(mine) - before
            raise
    finally:
        for process in ours & _parents().keys():
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)


def _below(pid: int) -> set[_Process]:
    parents = _parents()
    found: set[_Process] = set()
    todo = [pid]
    while todo:
        above = todo.pop()
        children = {child for child, parent in parents.items() if parent == above} - found
        found |= children
        todo += [child.pid for child in children]
    return found


def _parents() -> dict[_Process, int]:
    """Every process of this machine with its parent's number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            found[_Process(int(entry.parent.name), fields[19])] = int(fields[1])
    return found
