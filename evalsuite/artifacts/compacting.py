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
_COMPACT_BYTES = 2 * 2**20
_LEARNED_BYTES = 32 * 2**20  # glibc's own end of learning


@contextlib.contextmanager
def keeping_compact(
    run: RunDirectory, stages: Sequence[str], every_s: float = EVERY_S
) -> Iterator[None]:
    """Look at the receipts of `stages` now and then in a thread; what is new goes into the cache.

    What cannot be read now is reported by whoever needs it. Meanwhile the process gives large
    blocks of memory back to the system.
    """
    _keep_of_freed_memory(_COMPACT_BYTES)
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
        _keep_of_freed_memory(_LEARNED_BYTES)


def _keep_of_freed_memory(block_bytes: int) -> None:
    """Fix which freed blocks glibc keeps for itself; elsewhere nothing is done.

    Each look reads and writes blocks of pixel hashes of up to some ten megabytes. By itself glibc
    learns such sizes: it then serves them from the heap of the thread and keeps twice as much on
    top of each, so that a driver's memory grew by 80 MiB in 12,000 shards, of which 20 were in use.
    What is computed afterwards, as metrics are, is faster with what glibc would have learned.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, block_bytes)
        mallopt(_M_TRIM_THRESHOLD, 2 * block_bytes)
