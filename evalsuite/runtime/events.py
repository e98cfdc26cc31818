"""What happens in a run, as the driver tells it to whoever listens: logs, metrics, status."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "worker-starting",  # a process was asked of Ray
    "worker-ready",  # it has loaded
    "worker-lost",  # died, hung or was replaced; `reason` says how
    "worker-ended",  # was let go: nothing more to do, or its place was taken away
    "shard-handed",  # an attempt at a shard was given to a worker
    "shard-committed",  # an attempt committed; `seconds` it took
    "shard-discarded",  # another attempt had committed first: computed twice
    "shard-retried",  # went back to the queue; `reason`
    "shard-copied",  # a second worker took a straggling shard
    "shard-quarantined",  # failed on several workers and was set aside
    "node-joined",
    "node-left",
    "stopping",  # a signal came
]


@dataclass(frozen=True)
class Event:
    """One thing that happened, in the driver's words."""

    kind: Kind
    worker: str = ""
    """The driver's name of a worker, such as `worker-3`."""
    host: str = ""
    """Its machine, once it has told."""
    pid: int | None = None
    device: str = ""
    start: int | None = None
    """First sample of the shard."""
    stop: int | None = None
    attempt_id: str = ""
    reason: str = ""
    traceback: str = ""
    """Of what a worker raised, as it came from there; for logs."""
    seconds: float | None = None
    """Of a shard: until it was committed; of a worker that is ready: its loading."""
    joules: float | None = None
    """Energy of the GPU while it computed the shard; None where it was not measured."""
    time: float = field(default_factory=time.time)
    """Seconds since the epoch, by the driver's clock."""


Observer = Callable[[Event], None]


def nobody(event: Event) -> None:
    """Listen to nothing."""
