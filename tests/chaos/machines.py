"""What a machine may let a test do: memory groups and mounts; without the right, nothing."""

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

_GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)
"""Where memory groups lie: version 1, version 2."""


@contextlib.contextmanager
def memory_limited(pid: int, num_bytes: int) -> Iterator[bool]:
    """Put a process into a memory group that may take so much more; False when not allowed."""
    group = None
    for base, limit in _GROUPS:
        candidate = base / f"chaos-{uuid.uuid4().hex[:8]}"
        try:
            candidate.mkdir()
            group = candidate
            (candidate / limit).write_text(str(num_bytes))
            (candidate / "cgroup.procs").write_text(str(pid))
        except OSError:
            if group:
                _remove(group)
            group = None
        else:
            break
    try:
        yield group is not None
    finally:
        if group:
            _remove(group)


def tmpfs(folder: Path, size: str) -> bool:
    """Put a file system of a size at a folder; False when not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def mounted(folder: Path, *, read_only: bool) -> bool:
    """Put a folder over itself, read-only; False when not allowed."""
    bind = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        return False
    again = ["mount", "-o", f"remount,bind,{'ro' if read_only else 'rw'}", str(folder)]
    return subprocess.run(again, capture_output=True, check=False).returncode == 0


def memory_in_use() -> float:
    """The part of this machine's memory that is in use, as Ray's monitor reckons it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return 1 - kilobytes["MemAvailable"] / kilobytes["MemTotal"]


def _remove(group: Path) -> None:
    with contextlib.suppress(OSError):
        group.rmdir()
