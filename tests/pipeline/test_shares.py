"""Which tasks of a job array are missing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Outcome
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.cli.options import parse_part
from evalsuite.pipeline.ranges import part_of
from evalsuite.pipeline.shares import ArrayRun, array_of, hint_of_missing_shares, missing_shares


@given(st.sets(st.integers(1, 60), min_size=1))
def test_the_array_names_every_part_once(parts: set[int]) -> None:
    named: list[int] = []
    for word in array_of(sorted(parts)).split(","):
        low, _, high = word.partition("-")
        named += range(int(low), int(high or low) + 1)
    assert named == sorted(parts)


EXTRACTOR = "digits-convnet-5bb259a7"


@pytest.mark.parametrize("stage", ["images", f"features/{EXTRACTOR}"])
@pytest.mark.parametrize("num_parts", [1, 3, 20, 50])
def test_missing_shares_are_those_that_lack_a_batch(
    run_copy: Path, num_parts: int, stage: str
) -> None:
    """200 samples in batches of 10; shards are taken away one by one, of images or features."""
    array = ArrayRun(200, num_parts, (EXTRACTOR,))
    run = RunDirectory.open(run_copy)
    assert missing_shares(run, array, 200, [EXTRACTOR]) == []
    lost: list[tuple[int, int]] = []
    shares = {part: part_of(200, 10, part, num_parts) for part in range(1, num_parts + 1)}
    for path in sorted((run_copy / "receipts" / stage).glob("*.json"))[::2]:
        low, high = (int(word) for word in path.stem.split("-")[:2])
        path.unlink()
        lost.append((low, high))
        assert missing_shares(RunDirectory.open(run_copy), array, 200, [EXTRACTOR]) == [
            part
            for part, (start, stop) in shares.items()
            if any(low < stop and start < high for low, high in lost)
        ]


def test_only_what_is_evaluated_and_what_the_array_makes_is_missing(run_copy: Path) -> None:
    """Features that its tasks do not make would not come by submitting them again."""
    last = sorted((run_copy / "receipts" / "features" / EXTRACTOR).glob("*.json"))[-1]
    last.unlink()
    run, makes = RunDirectory.open(run_copy), ArrayRun(200, 2, (EXTRACTOR,))
    assert missing_shares(run, makes, 200, [EXTRACTOR]) == [2]
    assert missing_shares(run, makes, 100, [EXTRACTOR]) == []
    assert missing_shares(run, makes, 10_000, [EXTRACTOR]) == [2]
    assert missing_shares(run, makes, 200, ["another"]) == []
    assert missing_shares(run, ArrayRun(200, 2), 200, [EXTRACTOR]) == []


def test_evaluate_says_which_tasks_lack_features(
    run_copy: Path, call: Callable[..., Outcome]
) -> None:
    """All images are there."""
    (attempt,) = (run_copy / "attempts").glob("*.json")
    about = json.loads(attempt.read_text())
    about["resolved"]["part"] = [1, 10]
    attempt.write_text(json.dumps(about))
    sorted((run_copy / "receipts" / "features" / EXTRACTOR).glob("*.json"))[3].unlink()
    outcome = call("evaluate", run_copy)
    assert outcome.code == 4
    (line,) = outcome.complaints
    assert "features of samples 60..79 are missing" in line
    assert "of 10 shares --array=4 are missing: `sbatch --array=4 " in line


def test_nothing_is_said_of_a_run_that_no_array_made(run_copy: Path) -> None:
    next((run_copy / "receipts" / "images").glob("*.json")).unlink()
    assert hint_of_missing_shares(RunDirectory.open(run_copy), 200, [EXTRACTOR]) is None


def test_arrays_count_from_one() -> None:
    with pytest.raises(Exception, match="a job array must count from 1, --array=1-N"):
        parse_part("0/4")
