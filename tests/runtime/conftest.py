"""A real three-node Ray cluster for the session, and ways to disturb real runs."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import Process, descendants, environment


class HostedCluster(NamedTuple):
    """A cluster of three nodes with one CPU each, held by another process."""

    address: str
    host_pid: int


@pytest.fixture(scope="session")
def cluster() -> Iterator[HostedCluster]:
    """Three real nodes, so that three workers stand on three of them."""
    program = Path(__file__).with_name("cluster_host.py")
    with tempfile.TemporaryDirectory(prefix="es-", ignore_cleanup_errors=True) as folder:
        host = subprocess.Popen(
            [sys.executable, program, "3", folder],
            env=environment(),
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
