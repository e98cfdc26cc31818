"""Compacting receipts while a run goes on, so that whoever reads it next need not open them all."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import EvalsuiteError

EVERY_S = 120.0
LEAVING_S = 10.0
"""A look that is under way at the end is waited for so long, and then left to itself."""
_SHARE = 0.02  # of the time of a thread, at most


@contextlib.contextmanager
def keeping_compact(
    run: RunDirectory, stages: Sequence[str], every_s: float = EVERY_S
) -> Iterator[None]:
    """Look at the receipts of `stages` now and then in a thread; what is new goes into the cache.

    What cannot be read now is reported by whoever needs it.
    """
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
