"""Which tasks of a job array are missing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.cli.options import parse_part
from evalsuite.pipeline.ranges import part_of
from evalsuite.pipeline.shares import array_of, hint_of_missing_shares, missing_shares


@given(st.sets(st.integers(1, 60), min_size=1))
def test_the_array_names_every_part_once(parts: set[int]) -> None:
    named: list[int] = []
    for word in array_of(sorted(parts)).split(","):
        low, _, high = word.partition("-")
        named += range(int(low), int(high or low) + 1)
    assert named == sorted(parts)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 20, 50])
def test_missing_shares_are_those_that_lack_a_batch(run_copy: Path, num_parts: int) -> None:
    """200 samples in batches of 10; shards are taken away one by one."""
    run = RunDirectory.open(run_copy)
    assert missing_shares(run, 200, num_parts) == []
    lost: list[tuple[int, int]] = []
    for path in sorted((run_copy / "receipts" / "images").glob("*.json"))[::2]:
        low, high = (int(word) for word in path.stem.split("-")[:2])
        path.unlink()
        lost.append((low, high))
        shares = {part: part_of(200, 10, part, num_parts) for part in range(1, num_parts + 1)}
        assert missing_shares(RunDirectory.open(run_copy), 200, num_parts) == [
            part
            for part, (start, stop) in shares.items()
            if any(low < stop and start < high for low, high in lost)
        ]


def test_nothing_is_said_of_a_run_that_no_array_made(run_copy: Path) -> None:
    next((run_copy / "receipts" / "images").glob("*.json")).unlink()
    assert hint_of_missing_shares(RunDirectory.open(run_copy)) is None


def test_arrays_count_from_one() -> None:
    with pytest.raises(Exception, match="a job array must count from 1, --array=1-N"):
        parse_part("0/4")
