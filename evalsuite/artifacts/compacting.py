"""Compacting receipts while a run goes on, so that whoever reads it next need not open them all."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator, Sequence

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import EvalsuiteError

EVERY_S = 120.0
LEAVING_S = 10.0
"""A look that is under way at the end is waited for so long, and then left to itself."""
_SHARE = 0.02  # of the time of a thread, at most
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = _MAPPED_BYTES = 2 * 2**20


@contextlib.contextmanager
def keeping_compact(
    run: RunDirectory, stages: Sequence[str], every_s: float = EVERY_S
) -> Iterator[None]:
    """Look at the receipts of `stages` now and then in a thread; what is new goes into the cache.

    What cannot be read now is reported by whoever needs it. From here on the process gives large
    blocks of memory back to the system.
    """
    _give_memory_back()
    ended = threading.Event()

    def look() -> None:
        wait_s = every_s
        while not ended.wait(wait_s):
            began = time.monotonic()
            for stage in stages:
                if ended.is_set():
                    return
                with contextlib.suppress(EvalsuiteError):
                    run.ledger.readings(stage)
            wait_s = max(every_s, (time.monotonic() - began) / _SHARE)

    thread = threading.Thread(target=look, name="compacting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LEAVING_S)  # a disk that hangs holds nothing up: it is a cache


def _give_memory_back() -> None:
    """Fix what glibc keeps of freed memory; elsewhere nothing is done.

    Each look reads and writes blocks of pixel hashes of up to some ten megabytes. By itself glibc
    learns such sizes: it then serves them from the heap of the thread and keeps up to 64 MiB on
    top of each, so that a driver's memory grew by 80 MiB in 12,000 shards, of which 20 were in use.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
