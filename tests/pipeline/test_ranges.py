"""Ranges: every sample is planned exactly once for what it lacks, whatever the sizes of shards."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.artifacts.run_directory import gaps_of
from evalsuite.pipeline.coverage import (
    LARGEST_SHARD,
    SHARD_S,
    UNKNOWN_BATCHES,
    default_shard_size,
    missing_images,
    tasks_for,
)
from evalsuite.pipeline.ranges import Range, ShardTask, part_of, plan_tasks, total, whole_batches

STAGES = ("images", "pixels", "features/a")
BATCHES = st.integers(1, 7)


@st.composite
def coverings(draw: st.DrawFn) -> tuple[int, Range, dict[str, list[Range]]]:
    """A batch size, an asked range, and for each stage receipts of any sizes, overlapping too."""
    batch = draw(BATCHES)
    low, length = draw(st.integers(0, 10)), draw(st.integers(0, 25))
    spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=5)
    covered = {
        stage: [(a * batch, (a + n) * batch) for a, n in draw(spans)]
        for stage in STAGES[: draw(st.integers(1, 3))]
    }
    return batch, (low * batch, (low + length) * batch), covered


@given(coverings(), st.integers(1, 60))
def test_each_sample_is_planned_once_for_each_stage_that_it_lacks(
    case: tuple[int, Range, dict[str, list[Range]]], shard_size: int
) -> None:
    """And what is covered is never planned again."""
    batch, asked, covered = case
    tasks = plan_tasks(asked, covered, shard_size, batch)
    for stage, ranges in covered.items():
        planned = [i for t in tasks if stage in t.stages for i in range(t.start, t.stop)]
        there = {i for low, high in ranges for i in range(low, high)}
        assert planned == [i for i in range(*asked) if i not in there]


def planned_by_definition(
    asked: Range, covered: dict[str, list[Range]], shard_size: int, batch: int
) -> list[ShardTask]:
    """Between two bounds of gaps, the stages that have a gap around both; slow with many gaps."""
    gaps = {stage: gaps_of(ranges, *asked) for stage, ranges in covered.items()}
    cuts = sorted({bound for ranges in gaps.values() for gap in ranges for bound in gap})
    step = whole_batches(shard_size, batch)
    tasks = []
    for low, high in itertools.pairwise(cuts):
        around = [s for s, ranges in gaps.items() if any(a <= low < high <= b for a, b in ranges)]
        if around:
            starts = range(low, high, step)
            tasks += [ShardTask(at, min(at + step, high), tuple(around)) for at in starts]
    return tasks


@given(coverings(), st.integers(1, 60))
def test_the_plan_is_that_of_its_definition(
    case: tuple[int, Range, dict[str, list[Range]]], shard_size: int
) -> None:
    batch, asked, covered = case
    tasks = plan_tasks(asked, covered, shard_size, batch)
    assert tasks == planned_by_definition(asked, covered, shard_size, batch)


def test_scattered_gaps_are_planned_in_no_time() -> None:
    """Every second of 200,000 batches is missing; by its definition that takes an hour."""
    there = [(at, at + 1) for at in range(0, 200_000, 2)]
    began = time.process_time()
    tasks = plan_tasks((0, 200_000), {"images": there, "features/a": list(there)}, 10, 1)
    assert time.process_time() - began < 10
    assert tasks == [ShardTask(a + 1, a + 2, ("images", "features/a")) for a, _ in there]


@given(coverings(), st.integers(1, 60))
def test_tasks_are_disjoint_whole_batches_of_at_most_the_shard_size(
    case: tuple[int, Range, dict[str, list[Range]]], shard_size: int
) -> None:
    batch, asked, covered = case
    end = asked[0]
    for task in plan_tasks(asked, covered, shard_size, batch):
        assert end <= task.start < task.stop <= asked[1]
        assert task.start % batch == task.stop % batch == 0
        assert task.stop - task.start <= whole_batches(shard_size, batch)
        assert task.stages
        end = task.stop


@given(coverings(), st.integers(1, 60), st.integers(1, 60))
def test_a_second_plan_after_the_first_was_done_is_empty(
    case: tuple[int, Range, dict[str, list[Range]]], shard_size: int, other_size: int
) -> None:
    """Also with another shard size, and after any part of the first."""
    batch, asked, covered = case
    tasks = plan_tasks(asked, covered, shard_size, batch)
    for task in tasks[: len(tasks) // 2]:
        for stage in task.stages:
            covered[stage].append((task.start, task.stop))
    rest = plan_tasks(asked, covered, other_size, batch)
    for task in rest:
        for stage in task.stages:
            covered[stage].append((task.start, task.stop))
    assert plan_tasks(asked, covered, shard_size, batch) == []
    assert missing_images(covered, asked) == 0


@given(coverings())
def test_missing_images_counts_samples_that_lack_anything(
    case: tuple[int, Range, dict[str, list[Range]]],
) -> None:
    _, asked, covered = case
    lacking = {
        i
        for ranges in covered.values()
        for low, high in gaps_of(ranges, *asked)
        for i in range(low, high)
    }
    assert missing_images(covered, asked) == len(lacking)


@given(coverings(), st.integers(1, 60))
def test_a_shard_that_makes_images_does_not_make_their_pixels_again(
    case: tuple[int, Range, dict[str, list[Range]]], shard_size: int
) -> None:
    """Its images shard keeps them; a shard whose images stand makes what was left out."""
    batch, asked, covered = case
    tasks = tasks_for(covered, asked, shard_size, batch)
    plain = plan_tasks(asked, covered, shard_size, batch)
    assert [(t.start, t.stop) for t in tasks] == [(t.start, t.stop) for t in plain]
    for task, before in zip(tasks, plain, strict=True):
        assert not {"images", "pixels"} <= set(task.stages)
        assert set(before.stages) - set(task.stages) <= {"pixels"}
        assert ("pixels" in task.stages) == (
            "pixels" in before.stages and "images" not in before.stages
        )


@given(st.integers(1, 500), BATCHES, st.integers(1, 12))
def test_parts_are_disjoint_and_complete(num_samples: int, batch: int, num_parts: int) -> None:
    """In whole batches, and of sizes that differ by one batch at most."""
    parts = [part_of(num_samples, batch, i, num_parts) for i in range(1, num_parts + 1)]
    samples = [i for low, high in parts for i in range(low, high)]
    assert samples == list(range(whole_batches(num_samples, batch)))
    sizes = [high - low for low, high in parts]
    assert all(size % batch == 0 for size in sizes)
    assert max(sizes) - min(sizes) <= batch
    assert total(parts) == len(samples)


@pytest.mark.parametrize("part", [0, 4, -1])
def test_parts_that_do_not_exist_are_refused(part: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.3"):
        part_of(100, 10, part, 3)


def test_500_at_64_is_512() -> None:
    assert whole_batches(500, 64) == 512
    assert whole_batches(512, 64) == 512
    assert part_of(500, 64, 1, 1) == (0, 512)


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 300))
def test_the_default_shard_is_whole_batches_and_bounded(
    num_images: int, num_workers: int, batch: int
) -> None:
    """Never more than the largest shard but for one batch that is larger itself."""
    size = default_shard_size(num_images, num_workers, batch)
    assert batch <= size <= max(batch, LARGEST_SHARD)
    assert size <= UNKNOWN_BATCHES * batch


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 300), st.floats(1e-4, 100))
def test_a_shard_takes_no_longer_than_it_may_where_the_speed_is_known(
    num_images: int, num_workers: int, batch: int, seconds_per_image: float
) -> None:
    """A batch at least; never more than the largest shard but for one batch that is larger."""
    size = default_shard_size(num_images, num_workers, batch, seconds_per_image)
    assert size % batch == 0
    assert size == batch or size * seconds_per_image <= SHARD_S
    assert size <= max(batch, LARGEST_SHARD)
