"""What only a GPU can show of a run: a GPU worker's pixels are the same however they are made."""

import signal
from pathlib import Path

import pytest
from harness import finish, pixel_hashes, receipts, run_cli, start, wait_for

pytestmark = [pytest.mark.gpu, pytest.mark.ray]

PLAN = ("--model", "pixnerd-digits", "--num-steps", "30", "--batch-size", "50", "--device", "cuda")
RUN = ("run", *PLAN, "--images", "all", "--yes", "--shard-size", 100, "--num-samples", 3000)


def test_a_killed_run_goes_on_with_the_same_pixels_and_numbers(tmp_path: Path) -> None:
    """The driver is killed in the middle; the undisturbed run has other shards."""
    whole = run_cli(
        *RUN, "--shard-size", 500, "--output", "whole", "--json", "whole.json", cwd=tmp_path
    )
    assert whole.code == 0, whole.stderr
    process = start(*RUN, "--output", "killed", cwd=tmp_path)
    wait_for(lambda: len(receipts(tmp_path / "killed")) >= 3)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert 3 <= len(receipts(tmp_path / "killed")) < 30
    again = run_cli(*RUN, "--output", "killed", cwd=tmp_path)
    assert again.code == 0, again.stderr
    assert pixel_hashes(tmp_path / "killed") == pixel_hashes(tmp_path / "whole")
    assert all(r["worker"]["device"] == "cuda:0" for r in receipts(tmp_path / "killed"))
    checked = run_cli("verify", "killed", "--device", "cuda", cwd=tmp_path)
    assert checked.code == 0, checked.stderr


def test_published_precision_runs_from_noise_to_files(tmp_path: Path) -> None:
    """A full-size network in bfloat16 with random weights; two batches, verified."""
    plan = ("--model", "pixnerd-xl-256", "--weights", "random:1", "--num-steps", 4)
    outcome = run_cli("run", *plan, "--num-samples", 128, "--output", "xl", cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    numerics = receipts(tmp_path / "xl")[0]["numerics"]
    assert (numerics["device"], numerics["tf32"]) == ("cuda", False)
    checked = run_cli("verify", "xl", cwd=tmp_path)
    assert checked.code == 0, checked.stderr
