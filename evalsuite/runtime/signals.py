"""Ctrl-C and SIGTERM as a request that the driver sees; a second one insists."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Set by signals, read by the driver."""

    def __init__(self) -> None:
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
        """128 plus the signal's number, as shells have it."""
        return 128 + self.signal_number

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's shape
        """Handle a signal."""
        self.count += 1
        self.signal_number = number


@contextlib.contextmanager
def signals_to(stop: StopRequest) -> Iterator[None]:
    """Send SIGINT and SIGTERM to `stop` within the block; use it after `ray.init`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
