"""Shared fixtures: the commands as a person starts them, and one finished run."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    NUM_SAMPLES,
    PLAN,
    FinishedRun,
    HostedCluster,
    Outcome,
    call_main,
    descendants,
    environment,
    pixel_hashes,
    run_cli,
    wait_for,
)
from shim import preloaded_where_possible

LONG_GROUPS = ("cluster", "chaos", "run", "golden")
"""For `-n`: what one process runs in minutes, and so begins first."""


def pytest_configure() -> None:
    """Clusters and drivers of these tests share a token, as those of one user do.

    Each process computes in one thread: with several of them on few cores, threads that wait for
    each other made tests with small matrices twenty times as slow.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.hookimpl(tryfirst=True)  # before xdist puts the groups into the names of the tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `-n`: who needs a cluster or the finished run shares a process, others only a file."""
    groups = {item: _group_of(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {group: place for place, group in enumerate(LONG_GROUPS)}
        items.sort(key=lambda item: places.get(groups[item], len(places)))


def _group_of(item: pytest.Item) -> str:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    fixtures = set(getattr(item, "fixturenames", ()))
    if folder in {"chaos", "cluster"}:
        return "chaos"
    if "cluster" in fixtures or folder == "runtime":
        return "cluster"
    if fixtures & {"digits_run", "run_copy", "expected"} or item.get_closest_marker("ray"):
        return "run"
    return "golden" if folder == "golden" else str(item.path)


_GOLDENS: dict[str, dict[str, Any]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the goldens that were run, in this process or in another."""
    for name, about in report.user_properties if report.when == "call" else ():
        if name == "golden":
            _GOLDENS.setdefault(about["family"], {"paths": set()}).update(about)
            _GOLDENS[about["family"]]["paths"].add(about["path"])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each family: how many of its cases were run."""
    for family, about in sorted(_GOLDENS.items()):
        terminalreporter.write_line(
            f"goldens {family}: {len(about['paths'])} of {about['total']} cases run"
            f" from {about['from']}"
        )


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


@pytest.fixture(scope="session")
def chaos_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below it lie the runs whose files `shim.c` may disturb; all others it lets pass."""
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="session")
def cluster(chaos_root: Path) -> Iterator[HostedCluster]:
    """Three real nodes, so that three workers stand on three of them."""
    program = Path(__file__).with_name("cluster_host.py")
    with tempfile.TemporaryDirectory(prefix="es-", ignore_cleanup_errors=True) as folder:
        host = subprocess.Popen(
            [sys.executable, program, "3", folder],
            env=environment(private=False, **preloaded_where_possible(chaos_root)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            address = host.stdout.readline().strip()
            assert address, "the cluster did not start"
            yield HostedCluster(address, host.pid)
        finally:
            below = descendants(host.pid)
            host.stdin.close()
            host.wait(timeout=60)
            wait_for(lambda: not any(process.alive for process in below), 30)
