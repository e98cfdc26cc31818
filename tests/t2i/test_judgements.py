"""Committed rows of a scorer: what a judge that is found to be broken takes with it."""

from pathlib import Path

from evalsuite.pipeline.geneval_scorer import check_rows_not_blind
from evalsuite.pipeline.judgements import Judgements, RowShard

WORKER = {"numerics_id": "0" * 64, "numerics": {}, "host": "here", "pid": 1, "device": "cpu"}


def rows_of(folder: Path, stops: tuple[int, ...], blind: tuple[int, ...] = ()) -> Judgements:
    """Ten rows in each shard, by one scorer that finds something once in each that is not blind."""
    kept = Judgements(str(folder), "1" * 64, "detections/x", of_run=False)
    for stop in stops:
        seen = [] if stop in blind else [stop - 1]
        rows = [{"item": i, "detections": [1] * (i in seen)} for i in range(stop - 10, stop)]
        shard = RowShard(stop - 10, rows, ["0" * 64] * 10)
        assert kept.commit(shard, f"a-{stop:05d}", 1.0, WORKER)
    return kept


def test_a_broken_judge_leaves_no_rows(tmp_path: Path) -> None:
    kept = rows_of(tmp_path, (10, 20))
    assert kept.gaps(20) == []
    kept.discard(20, check_rows_not_blind)
    assert kept.gaps(20) == [(0, 20)]
    assert [path for path in tmp_path.rglob("*") if path.suffix in {".jsonl", ".json"}] == []


def test_what_was_refused_goes_and_what_was_not_looked_at_stays(tmp_path: Path) -> None:
    """A detector that found nothing in the first images may have found much in the others."""
    kept = rows_of(tmp_path, (10, 20, 30))
    kept.discard(10, check_rows_not_blind)
    assert kept.gaps(30) == [(0, 10)]
    kept.discard(15, check_rows_not_blind)  # a part of a shard goes with the whole
    assert kept.gaps(30) == [(0, 20)]
    assert [row["item"] for row in kept.rows(30)] == list(range(20, 30))


def test_rows_beyond_that_are_blind_too_enter_no_later_score(tmp_path: Path) -> None:
    """A broken detector stopped at 40 images; the first 10 are scored, and then all."""
    kept = rows_of(tmp_path, (10, 20, 30, 40), blind=(10, 20, 40))
    kept.discard(10, check_rows_not_blind)
    assert kept.gaps(40) == [(0, 20), (30, 40)]
    assert [row["item"] for row in kept.rows(40)] == list(range(20, 30))
