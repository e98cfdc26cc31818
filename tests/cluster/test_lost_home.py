"""Drivers whose own node manager ends, while the node that their workers are on lives."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import descendants, environment, finish, wait_for

from evalsuite.runtime.driver import GRACE_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NODES = [{"num_cpus": 0}, {"num_cpus": 2}]
"""Drivers join the first; their workers stand on the second."""


@pytest.fixture
def address() -> Iterator[str]:
    program = Path(__file__).parents[1] / "cluster_host.py"
    with tempfile.TemporaryDirectory(prefix="es-", ignore_cleanup_errors=True) as folder:
        host = subprocess.Popen(
            [sys.executable, program, json.dumps(NODES), folder],
            env=environment(private=False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield host.stdout.readline().strip()
        finally:
            below = descendants(host.pid)
            host.stdin.close()
            host.wait(timeout=60)
            wait_for(lambda: not any(process.alive for process in below), 30)


def drive(address: str, told: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("homeless.py"), address, told],
        env=environment(private=False, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def has_told(file: Path) -> bool:
    return file.exists() and bool(file.read_text())


def test_drivers_without_their_node_manager_end(address: str, tmp_path: Path) -> None:
    """One is told to stop at the same time, and does not wait for what it could not hear of."""
    files = [tmp_path / "surprised", tmp_path / "stopped"]
    surprised, stopped = (drive(address, told) for told in files)
    try:
        both = (surprised, stopped)
        wait_for(lambda: all(map(has_told, files)) or any(one.poll() for one in both), 120)
        assert not any(one.poll() for one in both), [finish(one) for one in both if one.poll()]
        (raylet,) = {int(told.read_text()) for told in files}
        began = time.monotonic()
        stopped.send_signal(signal.SIGTERM)
        os.kill(raylet, signal.SIGTERM)
        outcome = finish(stopped, 60)
        assert time.monotonic() - began < GRACE_S / 2
        assert outcome.code == 143, outcome.stderr
        assert "stopped by SIGTERM; 0 images of this invocation are committed" in outcome.stderr
        outcome = finish(surprised, 60)
        assert "Ray's node manager died" in outcome.stderr.splitlines()[-1], outcome.stderr
        assert "run the same command again to go on" in outcome.stderr
    finally:
        surprised.kill()
        stopped.kill()
