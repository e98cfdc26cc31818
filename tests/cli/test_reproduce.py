"""The command of a report, taken up by a shell and parsed again, asks what was asked."""

import subprocess
from pathlib import Path

import click
import pytest

from evalsuite.cli.generate import generate, run
from evalsuite.cli.options import given
from evalsuite.cli.sweep import sweep
from evalsuite.cli.verify_claim import verify_claim
from evalsuite.report.invocations import reproduce_command

MODEL = ("--model", "my model.yaml")
CASES = [
    (run, (*MODEL, "--set", "skip_unguided=false", "--set", "t_eps=1e-2", "--dtype", "float32")),
    (run, (*MODEL, "--prompt", "a 'red' $cube", "--prompt", "-b", "--size", "16x32", "--yes")),
    (run, (*MODEL, "--guidance-interval", "0.1", "0.9", "--part", "1/3", "--steps", "3")),
    (
        run,
        (*MODEL, "--tag", "why=a b", "--tag", "x=$HOME", "--log", "wandb:p"),
    ),
    (
        run,
        (
            *MODEL,
            "--output",
            "s3://bucket/run",
            "--device",
            "cpu",
            "--cfg",
            "0",
            "--json",
            "r.json",
        ),
    ),
    (generate, (*MODEL, "--images", "all", "--replicate", "0", "--labels", "file:x y.npy")),
    (sweep, (*MODEL, "--guidance-scale", "1:3:0.5", "--rungs", "500,2000", "--no-fresh")),
    (sweep, (*MODEL, "--set", "skip_unguided=true,false", "--guidance-interval", "0:1,0.1:0.9")),
    (sweep, (*MODEL, "--weights", "ckpts/step_*.pt", "--ema", "0.9999,0.9996", "--budget", "9000")),
    (
        sweep,
        ("--spec", "pixnerd-xl-512", "--runs", "s3://bucket/runs", "--output", "s3://bucket/s"),
    ),
    (verify_claim, (*MODEL, "--num-samples", "50000", "--metrics", "fid,inception_score")),
]


def words_of(line: str) -> list[str]:
    """As a real shell divides it."""
    script = f"set -- {line}; printf '%s\\0' \"$@\""
    done = subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(("command", "arguments"), CASES)
def test_what_is_printed_asks_the_same(
    command: click.Command, arguments: tuple[str, ...], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = str(command.name)
    with command.make_context(name, list(arguments)) as asked:
        line = reproduce_command(name, given(asked.params))
    first, second, *words = words_of(line)
    assert (first, second) == ("evalsuite", name)
    again = command.make_context(name, list(words))
    assert again.params == asked.params
    assert len(words) == len(arguments)
