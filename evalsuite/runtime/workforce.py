"""What a person asks workers for, and what they are to make; nothing here needs Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evalsuite.artifacts.storage import Place
from evalsuite.pipeline.ranges import Range


@dataclass(frozen=True)
class Workforce:
    """What a person asked for.

    Attributes:
        num_workers: as `--num-workers`; one for each GPU or core when None, where it pays off.
        address: as `--address`; None is this machine.
        device: `auto`, `cuda` or `cpu`.
        gpus_per_worker: as `--gpus-per-worker`; below 1, several workers share a GPU.
    """

    num_workers: int | None = None
    address: str | None = None
    device: str = "auto"
    gpus_per_worker: float = 1.0


class PieceWork(NamedTuple):
    """What is to be made."""

    gaps: Sequence[Range]
    batch_size: int
    """Images that are computed together; shards are whole batches."""
    stage: str
    shared: Place
    """Where it is kept, which every node must see."""
    remedy: str
    """What a person is told to do where one does not."""
    piece_s: float = 0.0
    """Seconds after which whoever makes a batch ends it by itself; 0 where it never does."""
