"""A thread that does something every few seconds, whatever the driver is busy with."""

import threading
from collections.abc import Callable, Sequence


class Heart:
    """Calls functions in turn, until it is stopped."""

    def __init__(self, every_s: float, beats: Sequence[Callable[[], None]]) -> None:
        """Prepare; `start` begins.

        Args:
            every_s: pause between two rounds.
            beats: what to call; they must not raise.
        """
        self._every_s, self._beats = every_s, beats
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evalsuite-heart", daemon=True)

    def start(self) -> None:
        """Begin, at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits for the round that is under way."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for beat in self._beats:
                beat()
            if self._stopped.wait(self._every_s):
                return
