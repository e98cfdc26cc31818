"""What this machine offers to workers: cores within affinity and quota, and memory."""

import os
from pathlib import Path

WORKER_BYTES = int(1.5 * 2**30)
"""Memory that a CPU worker is reckoned to need: Python, torch and a small model."""


def num_cores() -> int:
    """Cores that this process may use, within its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return max(1, min(cores, quota)) if quota else cores


def default_cpu_workers() -> int:
    """One-thread workers that fit: one for each core, as far as the free memory goes."""
    return max(1, min(num_cores(), _available_bytes() // WORKER_BYTES))


def room_for_workers(kind: str, gpus_per_worker: float) -> int:
    """Workers of a kind, `cuda` or `cpu`, that this machine holds, where they share its GPUs."""
    if kind != "cuda":
        return default_cpu_workers()
    import torch

    return torch.cuda.device_count() * int(1 / gpus_per_worker + 1e-6)


def _cgroup_quota() -> int | None:
    """Whole cores of a cgroup v2 quota; None without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))


def _available_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
