"""Which samples are still to be made, and in which shards; pure arithmetic on ranges."""

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from evalsuite.artifacts.receipts import Keep
from evalsuite.artifacts.run_directory import gaps_of

Range = tuple[int, int]


class ShardTask(NamedTuple):
    """Samples start..stop-1 in whole batches, for the named stages."""

    start: int
    stop: int
    stages: tuple[str, ...]
    keep: Keep | None = None
    """Pixels to keep, where a repair must keep more than the invocation asks."""


def whole_batches(num_samples: int, batch_size: int) -> int:
    """The number of samples that is computed and stored when `num_samples` are asked."""
    return -(-num_samples // batch_size) * batch_size


def part_of(num_samples: int, batch_size: int, part: int, num_parts: int) -> Range:
    """The samples of share `part` (1..num_parts), in whole batches; the shares are disjoint.

    Raises:
        ValueError: part is outside 1..num_parts.
    """
    if not 1 <= part <= num_parts:
        raise ValueError(f"part must lie in 1..{num_parts}, not {part}")
    num_batches = whole_batches(num_samples, batch_size) // batch_size
    low, high = (num_batches * p // num_parts for p in (part - 1, part))
    return low * batch_size, high * batch_size


def plan_tasks(
    asked: Range, covered: Mapping[str, Iterable[Range]], shard_size: int, batch_size: int
) -> list[ShardTask]:
    """The shards that complete `asked` for every stage in `covered`.

    Args:
        asked: samples start..stop-1, whole batches.
        covered: for each stage the ranges that have receipts, whatever their sizes.
        shard_size: samples of one shard, rounded up to whole batches.
        batch_size: samples of one batch.

    Returns:
        Disjoint tasks in order; each has the stages that its samples lack.
    """
    begins: dict[int, set[str]] = {}
    ends: dict[int, set[str]] = {}
    for stage, ranges in covered.items():
        for low, high in gaps_of(list(ranges), *asked):
            begins.setdefault(low, set()).add(stage)
            ends.setdefault(high, set()).add(stage)
    step = whole_batches(shard_size, batch_size)
    tasks: list[ShardTask] = []
    lacking: set[str] = set()
    for low, high in itertools.pairwise(sorted(begins.keys() | ends.keys())):
        lacking = (lacking - ends.get(low, set())) | begins.get(low, set())
        if lacking:
            stages = tuple(stage for stage in covered if stage in lacking)
            tasks += [ShardTask(at, min(at + step, high), stages) for at in range(low, high, step)]
    return tasks


def total(ranges: Iterable[Range]) -> int:
    """Samples in disjoint ranges."""
    return sum(high - low for low, high in ranges)
