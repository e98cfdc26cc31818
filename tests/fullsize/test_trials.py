"""Every preset runs from the command line at full size with random weights, and says what it is."""

import json
from pathlib import Path

import pytest
from harness import Outcome, call_main, finish, pixel_hashes, start

from evalsuite.config import ModelPreset, names_of

pytestmark = [pytest.mark.slow, pytest.mark.ray]

IN_PUBLISHED_DTYPE = ("jit-b-16-256", "pixnerd-l-256")
"""The others run in float32: without instructions for bfloat16 a CPU is about eight times slower
in it, which would make hours of this suite."""
TIMEOUT_S = 3600


def try_preset(name: str, folder: Path) -> Outcome:
    """Two samples in two steps, in one batch."""
    options = ("--num-samples", 2, "--num-steps", 2, "--batch-size", 2, "--images", "all", "--yes")
    dtype = () if name in IN_PUBLISHED_DTYPE else ("--dtype", "float32")
    command = ("run", "--model", name, "--weights", "random:0", *options, *dtype)
    return finish(start(*command, "--output", "made", cwd=folder), TIMEOUT_S)


@pytest.mark.parametrize("name", names_of(ModelPreset))
def test_a_trial_with_random_weights(name: str, tmp_path: Path) -> None:
    """Real images of two different samples; marked as no result, and no report of them."""
    outcome = try_preset(name, tmp_path)
    run = tmp_path / "made"
    assert outcome.code == 0, outcome.stderr
    assert "RANDOM WEIGHTS" in outcome.stderr
    assert len(set(pixel_hashes(run).values())) == 2
    assert json.loads((run / "manifest.json").read_text())["plan"]["ema"] == "random:0"
    assert "RANDOM WEIGHTS" in (run / "README.md").read_text()
    refused = call_main("report", run)
    assert refused.code == 2
    assert "random weights" in refused.stderr
    assert not (run / "report").exists()
