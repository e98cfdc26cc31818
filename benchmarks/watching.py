"""Seconds, CPU seconds and memory of process trees, measured from outside."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_EVERY_S = 0.05
_LOOKS_PER_SEARCH = 10
"""Searching all processes for new ones costs more than looking at known ones."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """What one run took.

    Attributes:
        wall_s: seconds by the clock, in which other people's work on the machine is.
        cpu_s: seconds that the processes computed, on all cores.
        peak_bytes: most resident memory of all processes together. Pages that several processes
            share, such as libraries, count once for each of them.
        start_bytes: the same when the run began.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    start_bytes: int


class Observed(NamedTuple):
    """What one run took, and what it returned."""

    usage: Usage
    result: Any


class _Process(NamedTuple):
    parent: int
    cpu_s: float
    """Its own and those of children that ended and were waited for."""


def observe(roots: Sequence[int], run: Callable[[], Any]) -> Observed:
    """Run something while these processes and all that descend from them are watched.

    Memory is looked at twenty times a second, and new processes are found twice a second; a root
    that ends meanwhile takes its CPU seconds along, unless it was a child of this process.
    """
    before, ended_before = _tree(roots), _ended_cpu_s()
    peak, stopped = [_resident(before)], threading.Event()

    def look() -> None:
        known: Iterable[int] = before
        looks = 0
        while not stopped.wait(_EVERY_S):
            looks += 1
            if looks % _LOOKS_PER_SEARCH == 0:
                known = _tree(roots)
            peak[0] = max(peak[0], _resident(known))

    start_bytes = peak[0]
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    began = time.perf_counter()
    try:
        result = run()
    finally:
        wall_s = time.perf_counter() - began
        stopped.set()
        watcher.join()
    after = _tree(roots)
    cpu_s = sum(p.cpu_s for p in after.values()) - sum(p.cpu_s for p in before.values())
    if any(root not in after for root in roots):
        cpu_s += _ended_cpu_s() - ended_before
    return Observed(Usage(wall_s, cpu_s, max(peak[0], _resident(after)), start_bytes), result)


def _ended_cpu_s() -> float:
    """CPU seconds of children of this process that ended and were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _resident(pids: Iterable[int]) -> int:
    """Resident memory of processes; one that is gone has none."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return total * _PAGE_BYTES


def _tree(roots: Sequence[int]) -> dict[int, _Process]:
    """The processes of these ids and all that descend from them."""
    everyone: dict[int, _Process] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - half the time of Path.iterdir
        if name.isdigit() and (process := _read(name)) is not None:
            everyone[int(name)] = process
            children.setdefault(process.parent, []).append(int(name))
    found: dict[int, _Process] = {}
    left = list(roots)
    while left:
        pid = left.pop()
        if pid in everyone and pid not in found:
            found[pid] = everyone[pid]
            left += children.get(pid, [])
    return found


def _read(pid: str) -> _Process | None:
    """One process; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - likewise
            fields = file.read().rpartition(b")")[2].split()  # the name may hold spaces
    except OSError:
        return None
    return _Process(int(fields[1]), sum(int(ticks) for ticks in fields[11:15]) / _TICKS)
