"""Runs of a cluster and of a private Ray, some of them disturbed once."""

import os
import signal
import time

import pytest
from disturb import KilledRun, LosingRun, SpreadRun, num_receipts, watched_workers, workers_below
from harness import (
    NUM_SAMPLES,
    PLAN,
    HostedCluster,
    call_in,
    descendants,
    finish,
    start,
    wait_for,
)

ALL = (*PLAN, "--num-samples", NUM_SAMPLES)


@pytest.fixture(scope="session")
def spread_run(three_nodes: HostedCluster, tmp_path_factory: pytest.TempPathFactory) -> SpreadRun:
    """`evalsuite run --address` with as many workers as the cluster has CPUs."""
    folder = tmp_path_factory.mktemp("spread")
    options = ("--address", three_nodes.address, "--shard-size", 30, "--shard-format", "npz")
    with watched_workers(three_nodes.host_pid) as seen:
        outcome = call_in(folder, "run", *ALL, *options, "--output", "made")
    assert outcome.code == 0, outcome.stderr
    return SpreadRun(folder / "made", outcome, {worker.parent for worker in seen})


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """SIGKILL to the driver's group after the third shard; RAY_ADDRESS names no cluster."""
    folder = tmp_path_factory.mktemp("killed")
    run = folder / "made"
    options = ("--num-workers", 1, "--shard-size", 10, "--output", "made")
    driver = start("generate", *ALL, *options, cwd=folder, RAY_ADDRESS="192.0.2.1:garbage")
    wait_for(lambda: num_receipts(run) >= 3)
    num_workers = len(workers_below(driver.pid))
    below = descendants(driver.pid)
    idle = [process.title for process in below if process.title.startswith("ray::IDLE")]
    os.killpg(driver.pid, signal.SIGKILL)
    assert finish(driver).code == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(process.alive for process in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [process.title for process in below if process.alive]
    assert num_receipts(run) < 20, "the run was over before it was killed"
    return KilledRun(run, len(below), num_workers, idle, left)


@pytest.fixture(scope="session")
def losing_run(tmp_path_factory: pytest.TempPathFactory) -> LosingRun:
    """SIGKILL to one of two workers of a private Ray after the third shard."""
    folder = tmp_path_factory.mktemp("losing")
    run = folder / "made"
    options = ("--num-workers", 2, "--shard-size", 10, "--output", "made")
    driver = start("generate", *ALL, *options, cwd=folder)
    wait_for(lambda: num_receipts(run) >= 3)
    workers = workers_below(driver.pid)
    assert workers
    os.kill(workers[0].pid, signal.SIGKILL)
    return LosingRun(run, finish(driver))
