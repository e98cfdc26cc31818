"""A head that dies under a job: whoever follows it is told, and the same command goes on."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness import (
    NUM_SAMPLES,
    PLAN,
    attempts,
    environment,
    finish,
    pixel_hashes,
    receipts,
    wait_for,
)
from heads import free_ports, lose, running_head, with_token

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_resubmission_goes_on(small_tree: Path, tmp_path: Path, expected: dict[int, str]) -> None:
    run, ports = tmp_path / "made", free_ports()
    words = ["generate", *PLAN, "--num-samples", str(NUM_SAMPLES), "--shard-size", "10"]
    words += ["--num-workers", "1", "--output", str(run)]

    def submit() -> "subprocess.Popen[str]":
        address = ["--address", f"http://127.0.0.1:{ports.dashboard}"]
        return subprocess.Popen(
            [sys.executable, "-m", "evalsuite", "submit", *address, "--", *words],
            cwd=small_tree,
            env=environment(private=True, **with_token()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with running_head(ports) as head:
        following = submit()
        wait_for(lambda: len(receipts(run)) >= 2, 180)
        lose(head)
        outcome = finish(following)
    assert outcome.code == 6
    assert "does not answer any more" in outcome.complaints[-1]
    assert "submit the same command with the same --output" in outcome.complaints[-1]
    before = len(receipts(run))
    assert 2 <= before < 20
    with running_head(ports):
        outcome = finish(submit())
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert attempts(run)[-1]["images_made"] == NUM_SAMPLES - 10 * before
    assert pixel_hashes(run) == expected
