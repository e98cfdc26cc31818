"""What a run still lacks for what is asked of it."""

from collections.abc import Callable
from typing import NamedTuple

from evalsuite.artifacts.images import grid_end, is_in_grid
from evalsuite.artifacts.ledger import Span
from evalsuite.artifacts.receipts import NO_END, Keep
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory, feature_stage, gaps_of
from evalsuite.config import ExtractorSpec, Plan
from evalsuite.pipeline.ranges import Range, ShardTask, part_of, plan_tasks, total, whole_batches

SHARDS_PER_WORKER = 8
LARGEST_SHARD = 512
SHARD_S = 30.0
"""Seconds of one worker for one shard, at most, where its speed is known."""
UNKNOWN_BATCHES = 16
"""Batches of one shard, at most, where the speed is not known: a batch of few images is slow."""
FEW_WORKERS = 64
"""So few give the driver time for shards of half that length."""


class Demand(NamedTuple):
    """What an invocation asks of a run."""

    num_samples: int
    part: tuple[int, int] | None
    keep: Keep
    extractors: tuple[ExtractorSpec, ...]

    def asked(self, batch_size: int) -> Range:
        """Samples of this invocation's share, in whole batches."""
        part, num_parts = self.part or (1, 1)
        return part_of(self.num_samples, batch_size, part, num_parts)

    @property
    def stages(self) -> list[str]:
        """Stages of a run whose files are asked for."""
        features = [feature_stage(spec.extractor_id) for spec in self.extractors]
        return [IMAGES, *features, *([PIXELS] if self.keep == "all" else [])]


def covered_ranges(run: RunDirectory | None, plan: Plan, demand: Demand) -> dict[str, list[Range]]:
    """Ranges that touch what `demand` asks, for each stage that it needs; none without a run.

    Raises:
        CorruptionError: a receipt of samples that are asked for cannot be read.
    """
    return _covered(plan, demand, lambda stage, asked: run.spans(stage, *asked) if run else [])


def readable_ranges(run: RunDirectory, demand: Demand) -> dict[str, list[Range]]:
    """As `covered_ranges`, without what damaged receipts cover: an invocation makes that again."""
    return _covered(run.plan, demand, lambda stage, asked: readable_spans(run, stage, asked))


def readable_spans(run: RunDirectory, stage: str, asked: Range) -> list[Span]:
    """Spans of a stage that touch `asked`, as far as their receipts can be read."""
    rows = [reading.row for reading in run.ledger.readings(stage, *asked)]
    return [Span(row.start, row.stop, row.kept) for row in rows if row is not None]


def _covered(
    plan: Plan, demand: Demand, spans_of: Callable[[str, Range], list[Span]]
) -> dict[str, list[Range]]:
    asked = demand.asked(plan.batch_size)

    def ranges_of(stage: str) -> list[Range]:
        return [span[:2] for span in spans_of(stage, asked)]

    images = spans_of(IMAGES, asked)
    covered: dict[str, list[Range]] = {IMAGES: [span[:2] for span in images]}
    if demand.keep != "none":
        kept = [span[:2] for span in images if span.kept in ("all", demand.keep)]
        covered[PIXELS] = kept + ranges_of(PIXELS)
    if demand.keep == "grid":
        covered[PIXELS] += _outside_grid(plan, *asked)
    stages = [feature_stage(spec.extractor_id) for spec in demand.extractors]
    return covered | {stage: ranges_of(stage) for stage in stages}


def _outside_grid(plan: Plan, start: int, stop: int) -> list[Range]:
    """Batches without a sample of the grid."""
    size = plan.batch_size
    last = min(stop, whole_batches(grid_end(plan), size))
    return [
        (low, low + size)
        for low in range(start, last, size)
        if not any(is_in_grid(plan, index) for index in range(low, low + size))
    ] + [(max(start, last), stop)]


def tasks_for(
    covered: dict[str, list[Range]], asked: Range, shard_size: int, batch_size: int
) -> list[ShardTask]:
    """Shards that complete `asked`; a shard that makes images keeps their pixels by itself."""
    tasks = plan_tasks(asked, covered, shard_size, batch_size)
    return [
        task._replace(stages=tuple(s for s in task.stages if s != PIXELS))
        if IMAGES in task.stages
        else task
        for task in tasks
    ]


def missing_images(covered: dict[str, list[Range]], asked: Range) -> int:
    """Samples of `asked` that lack any stage."""
    return total((t.start, t.stop) for t in plan_tasks(asked, covered, NO_END, 1))


def default_shard_size(
    num_images: int, num_workers: int, batch_size: int, seconds_per_image: float | None = None
) -> int:
    """Several shards for each worker, so that all end together, but none above LARGEST_SHARD.

    Where the speed is known, a shard takes SHARD_S or less, of few workers half of it (but a batch
    at least): what a killed worker loses is half a shard, on average. Where it is not, it has few
    batches: its receipt tells the next invocation the speed.
    """
    share = num_images // (SHARDS_PER_WORKER * num_workers)
    if seconds_per_image:
        limit_s = SHARD_S / 2 if num_workers <= FEW_WORKERS else SHARD_S
        most = int(limit_s / seconds_per_image)
    else:
        most = UNKNOWN_BATCHES * batch_size
    return max(batch_size, min(share, most, LARGEST_SHARD) // batch_size * batch_size)


def missing_ranges(run: RunDirectory, demand: Demand) -> list[Range]:
    """Ranges of the asked samples that lack a stage."""
    asked = demand.asked(run.plan.batch_size)
    covered = covered_ranges(run, run.plan, demand)
    gaps = {gap for ranges in covered.values() for gap in gaps_of(ranges, *asked)}
    return sorted(gaps)
