"""Ctrl-C, SIGTERM and SIGUSR1 as a request that the driver sees; a second one insists."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from evalsuite.errors import DataError, Interrupted, first_line

REQUEUE_CODE = 85
"""Exit code that says: stopped by the scheduler, put me into the queue again."""


def stop_code(number: int, *, is_share: bool = False) -> int:
    """The exit code of work that a signal stopped: 128 plus its number, as shells have it, or 85.

    85 asks to be queued again: after SIGUSR1, which nobody sends for another reason, and after
    SIGTERM where a scheduler sends it, in a Slurm job or to one share of a run.

    Args:
        number: of the signal.
        is_share: the work is `--part I/N` of a run.
    """
    scheduled = is_share or bool(os.environ.get("SLURM_JOB_ID"))
    if number == signal.SIGUSR1 or (number == signal.SIGTERM and scheduled):
        return REQUEUE_CODE
    return 128 + number


class StopRequest:
    """Set by signals, read by the driver."""

    def __init__(self, *, is_share: bool = False) -> None:
        self._is_share = is_share
        self.count = 0
        self.signal_number: int = signal.SIGINT

    @property
    def requested(self) -> bool:
        """Whether the work is to stop."""
        return self.count > 0

    @property
    def insisted(self) -> bool:
        """Whether it is to stop at once."""
        return self.count > 1

    @property
    def signal_name(self) -> str:
        """For messages."""
        return (
            "Ctrl-C"
            if self.signal_number == signal.SIGINT
            else signal.Signals(self.signal_number).name
        )

    @property
    def exit_code(self) -> int:
        """See `stop_code`."""
        return stop_code(self.signal_number, is_share=self._is_share)

    def ended(self, num_images: int, met: BaseException | None = None) -> Interrupted:
        """What stopped work is ended with.

        Args:
            num_images: that it has committed.
            met: what a worker met meanwhile; the next invocation meets it again.
        """
        also = "" if met is None else f" (a worker met: {first_line(met)})"
        return Interrupted(
            f"stopped by {self.signal_name}; {num_images} images of this invocation are committed:"
            f" run the same command again to go on{also}",
            self.exit_code,
        )

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's shape
        """Handle a signal."""
        self.count += 1
        self.signal_number = number


@contextlib.contextmanager
def signals_to(stop: StopRequest) -> Iterator[None]:
    """Send SIGINT, SIGTERM and SIGUSR1 to `stop` within the block; use it after `ray.init`.

    One that came too late for the driver to end by it is raised again for whoever handled it
    before, also where the block ended with bad data, after which sweeps go on.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, stop)
    is_over = False
    try:
        yield
    except BaseException as error:
        is_over = not isinstance(error, DataError)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop.requested and not is_over:
            signal.raise_signal(stop.signal_number)
