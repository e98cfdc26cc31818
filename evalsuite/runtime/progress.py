"""What a person sees of work that goes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where the work of this invocation stands."""

    images_done: int
    """Computed, of the images of this invocation."""
    images_total: int
    workers: int
    losses: int
    loading: bool
    images_per_second: float | None = None
    """Where it is known better than from what was told since the first time."""
    waits_for: str = ""
    """What workers that could not begin wait for, in words; "" where none does."""
