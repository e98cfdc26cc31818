"""How long this process works by itself before it calls for workers."""

import time
from collections.abc import Callable

from evalsuite.runtime.progress import Progress

PATIENCE_S = 20.0
"""What this process would still work at for longer goes to workers, which take about ten seconds
to start and to load (measured on two cores: Ray 3 to 6 s, Inception's weights 2 s)."""
_JUDGED_S = 1.0  # of work, before its speed says anything
_QUIET_S = 5.0


class Patience:
    """Shows progress of work that takes long, and says when it would take too long here."""

    def __init__(
        self, num_images: int, patience_s: float | None, listener: Callable[[Progress], None]
    ) -> None:
        self._num_images, self._patience_s = num_images, patience_s
        self._listener = listener
        self._began_s = time.monotonic()
        self.done = 0

    def begin(self) -> None:
        """Everything is loaded."""
        self._began_s = time.monotonic()

    def __call__(self, done: int) -> bool:
        """Whether to go on, after `done` images."""
        self.done = done
        took_s = time.monotonic() - self._began_s
        if took_s > _QUIET_S:
            self._listener(Progress(done, self._num_images, 1, 0, False, done / took_s))
        left_s = took_s / done * (self._num_images - done)
        return self._patience_s is None or took_s < _JUDGED_S or left_s < self._patience_s
