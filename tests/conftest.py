"""Shared fixtures: the commands as a person starts them, and one finished run."""

import contextlib
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
    made_once,
    pixel_hashes,
    run_cli,
    wait_for,
)
from shim import preloaded_where_possible

LONG_GROUPS = ("losses", "golden", "heads", "cluster", "identity")
"""For `-n`: what one process runs in minutes, and so begins first. All but one need a cluster and
wait for it half of the time; that one computes meanwhile. Of the first three one alone begins with
what needs the run of `digits_run`, so that none waits while another makes it."""
SHARING_FILES = ("test_text_run.py", "test_extraction.py", "test_frail_models.py")
"""Files whose fixtures only some tests have a cluster for, and all tests need."""
LONG_FILES = (
    "sweep/test_sweep_command.py",
    "cli/test_store_run.py",
    "pipeline/test_scorer.py",
    "cli/test_compare.py",
    "diagnosis/test_probes.py",
    "t2i/test_shapes.py",
    "artifacts/test_object_storage.py",
    "conditioning/test_text_cache.py",
    "test_wheel.py",
    "runtime/test_hung.py",
    "cli/test_run.py",
    "cli/test_offline.py",
    "browser/test_full_pages.py",
    "t2i/test_t2i_commands.py",
    "runtime/observing/test_loggers.py",
)
"""Files that take half a minute and more: after the long groups, before all others."""


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
    """For `-n`: who needs a cluster shares a process with others that do, the rest only a file."""
    groups = {item: _group_of(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {group: place for place, group in enumerate((*LONG_GROUPS, *LONG_FILES))}
        items.sort(key=lambda item: places.get(groups[item], len(places)))


def _group_of(item: pytest.Item) -> str:
    file = item.path.relative_to(Path(__file__).parent)
    fixtures = set(getattr(item, "fixturenames", ()))
    if file.parts[0] == "cluster" or file.name == "test_elastic.py":
        return "heads"
    if file.parts[0] == "chaos" or file.name == "test_failures.py":
        return "losses"
    if file.name in {"test_cluster.py", "test_identity.py"}:
        return "identity"
    if {"cluster", "three_nodes"} & fixtures or file.name in SHARING_FILES:
        return "cluster"
    return "golden" if file.parts[0] == "golden" else str(file)


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

    def make(folder: Path) -> Outcome:
        options = ("--num-samples", NUM_SAMPLES, "--images", "all", "--num-workers", 1)
        where = ("--output", "made", "--json", "out.json")
        outcome = run_cli("run", *PLAN, *options, *where, cwd=folder)
        assert outcome.code == 0, outcome.stderr
        return outcome

    folder, outcome = made_once(tmp_path_factory, "digits", make)
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
    """A cluster of one node with room for three workers.

    Every command on several nodes first starts a process on each of them, which reads a file there:
    seconds of a core that are only worth it where nodes are what a test is about.
    """
    with _hosted([{"num_cpus": 3}], chaos_root) as hosted:
        yield hosted


@pytest.fixture(scope="session")
def three_nodes(chaos_root: Path) -> Iterator[HostedCluster]:
    """Three real nodes with one CPU each, so that three workers stand on three of them."""
    with _hosted([{"num_cpus": 1}] * 3, chaos_root) as hosted:
        yield hosted


@contextlib.contextmanager
def _hosted(nodes: list[dict[str, int]], chaos_root: Path) -> Iterator[HostedCluster]:
    program = Path(__file__).with_name("cluster_host.py")
    with tempfile.TemporaryDirectory(prefix="es-", ignore_cleanup_errors=True) as folder:
        host = subprocess.Popen(
            [sys.executable, program, json.dumps(nodes), folder],
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
