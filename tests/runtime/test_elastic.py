"""A node that joins is used, one that leaves costs its shards in flight, and the pixels stay."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturb import num_receipts, workers_below
from harness import (
    NUM_SAMPLES,
    PLAN,
    attempts,
    descendants,
    environment,
    finish,
    pixel_hashes,
    start,
    wait_for,
)
from shim import FAST_RAY

pytestmark = pytest.mark.ray


class Growing:
    """A cluster of one node with one CPU, held by another process, which can grow."""

    def __init__(self, folder: str) -> None:
        program = Path(__file__).parents[1] / "cluster_host.py"
        self.process = subprocess.Popen(
            [sys.executable, program, "1", folder],
            env=environment(private=False, **FAST_RAY),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def raylets(self) -> set[int]:
        """The node managers."""
        return {p.pid for p in descendants(self.process.pid) if "/raylet" in p.title.split(" ")[0]}

    def add(self) -> int:
        """One more node; gives its node manager."""
        before = self.raylets()
        self.process.stdin.write("add\n")
        self.process.stdin.flush()
        return wait_for(lambda: self.raylets() - before).pop()


@pytest.fixture(scope="module")
def growing() -> Iterator[Growing]:
    with tempfile.TemporaryDirectory(prefix="es-", ignore_cleanup_errors=True) as folder:
        cluster = Growing(folder)
        below = descendants(cluster.process.pid)
        try:
            yield cluster
        finally:
            below = descendants(cluster.process.pid)
            cluster.process.stdin.close()
            cluster.process.wait(timeout=60)
            wait_for(lambda: not any(process.alive for process in below), 30)


def test_a_node_joins_and_another_leaves_in_mid_run(
    growing: Growing, tmp_path: Path, expected: dict[int, str]
) -> None:
    """`--num-workers auto`, the default, on a cluster that grows from one to two, and shrinks.

    The first node's worker stands still meanwhile, so that there is work for the other.
    """
    run = tmp_path / "made"
    options = ("--num-samples", NUM_SAMPLES, "--shard-size", 10, "--output", "made")
    driver = start("generate", *PLAN, *options, "--address", growing.address, cwd=tmp_path)
    (first,) = growing.raylets()
    wait_for(lambda: num_receipts(run) >= 2)
    (early,) = workers_below(first)
    os.kill(early.pid, signal.SIGSTOP)
    try:
        second = growing.add()
        wait_for(lambda: workers_below(second))
        reached = num_receipts(run)
        wait_for(lambda: num_receipts(run) >= reached + 2)
        os.kill(second, signal.SIGKILL)
        (log,) = (run / "attempts").glob("*.log.jsonl")
        wait_for(lambda: '"worker-lost"' in log.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):  # so long that it was taken for hung
            os.kill(early.pid, signal.SIGCONT)
    outcome = finish(driver)
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(run) == expected
    (attempt,) = attempts(run)
    assert attempt["workers"] == 2
    assert attempt["workers_lost"] >= 1
