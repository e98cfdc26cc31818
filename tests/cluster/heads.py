"""A real Ray head with its job server, held by `ray start --block` on ports of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import requests
from harness import NONE_BEFOREHAND, Process, descendants, environment, wait_for


class Head(NamedTuple):
    """A running head."""

    address: str
    """Of its job server."""
    gcs: str
    """Of the cluster."""
    host_pid: int
    """Of the process above all others of it."""


class Ports(NamedTuple):
    """Ports of a head, so that a second start has the same ones."""

    gcs: int
    dashboard: int
    agent: int
    client: int


def free_ports() -> Ports:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in Ports._fields
        ]
        return Ports(*(server.getsockname()[1] for server in servers))


@contextlib.contextmanager
def running_head(ports: Ports, *options: str, num_cpus: int = 2, **env: str) -> Iterator[Head]:
    """Start a head and end what it started, whatever became of it."""
    binaries = str(Path(sys.executable).parent)
    with tempfile.TemporaryDirectory(prefix="eh-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                *(f"{binaries}/ray", "start", "--head", "--block", f"--num-cpus={num_cpus}"),
                *("--include-log-monitor=False", *options),
                *("--node-ip-address=127.0.0.1", f"--port={ports.gcs}"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={ports.dashboard}"),
                *(f"--dashboard-agent-listen-port={ports.agent}", f"--temp-dir={folder}"),
                *(
                    f"--object-store-memory={80 * 2**20}",
                    f"--ray-client-server-port={ports.client}",
                ),
            ],
            env=environment(
                private=False, PATH=f"{binaries}:{os.environ['PATH']}", **NONE_BEFOREHAND, **env
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{ports.dashboard}"
        try:
            wait_for(lambda: process.poll() is not None or answers(url), 120)
            assert process.poll() is None, "the head did not start"
            yield Head(url, f"127.0.0.1:{ports.gcs}", process.pid)
        finally:
            below = descendants(process.pid)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            kill([*below, *descendants(process.pid)])
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Whether a job server takes our token there."""
    headers = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{url}/api/version", headers=headers, timeout=5).status_code == 200
    return False


def kill(processes: list[Process]) -> None:
    """Kill these very processes and wait until they are gone."""
    for process in processes:
        if process.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(process.alive for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)


def lose(head: Head) -> None:
    """Kill a head with all that runs on it, as a machine that goes away."""
    below = descendants(head.host_pid)
    os.kill(head.host_pid, signal.SIGKILL)
    kill(below)


def with_token(**env: str) -> dict[str, str]:
    """The token of these tests, which a command without `--address` would not be given."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"], **env}
