"""Shared fixtures: the commands as a person starts them, and one finished run."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import NUM_SAMPLES, PLAN, FinishedRun, Outcome, call_main, pixel_hashes, run_cli


def pytest_configure() -> None:
    """Clusters and drivers of these tests share a token, as those of one user do."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Outcome]:
    """`cli("status", run)` runs a command in a subprocess whose working directory is tmp_path."""
    return lambda *arguments, **env: run_cli(*arguments, cwd=tmp_path, **env)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`call("status", run)` runs a command in this process, in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return call_main


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """200 samples by one worker of a private Ray, every image kept. Not to be changed."""
    folder = tmp_path_factory.mktemp("digits")
    options = ("--num-samples", NUM_SAMPLES, "--images", "all", "--num-workers", 1)
    outcome = run_cli("run", *PLAN, *options, "--output", "made", "--json", "out.json", cwd=folder)
    assert outcome.code == 0, outcome.stderr
    return FinishedRun(folder / "made", json.loads((folder / "out.json").read_text()), outcome)


@pytest.fixture
def run_copy(digits_run: FinishedRun, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged or extended."""
    return Path(shutil.copytree(digits_run.path, tmp_path / "made"))


@pytest.fixture(scope="session")
def expected(digits_run: FinishedRun) -> dict[int, str]:
    """The pixel hashes of the finished run: 200 samples, all different."""
    hashes = pixel_hashes(digits_run.path)
    assert list(hashes) == list(range(NUM_SAMPLES))
    assert len(set(hashes.values())) == NUM_SAMPLES
    return hashes
