"""Asking whoever listens at an address: within a limit, and with signals that raise meanwhile."""

import socket
import subprocess
import sys
import time

import pytest

from evalsuite.runtime.reaching import reach

ENDED_AT_ANY_MOMENT = """
import random, signal, socket, _thread
from evalsuite.runtime.reaching import reach

class Ended(Exception): pass

def end(number, frame): raise Ended

def accept():
    while True:
        server.accept()[0].close()

signal.signal(signal.SIGALRM, end)
server = socket.create_server(("127.0.0.1", 0))
_thread.start_new_thread(accept, ())
draw, port = random.Random(0), server.getsockname()[1]
for _ in range(4000):
    try:
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 6e-4))
        while True:
            reach("127.0.0.1", port, 60.0, lambda connection: True)
    except Ended:
        pass
"""
"""The handler of SIGTERM raises like this one."""


def test_the_answer_comes_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reach("localhost", port, 5.0, lambda asked: asked.getpeername()[1]) == port
    with pytest.raises(ConnectionRefusedError):
        reach("127.0.0.1", port, 5.0, lambda _: None)


@pytest.mark.parametrize(("host", "port"), [("a" * 64 + ".b", 1), ("127.0.0.1", 2**16)])
def test_no_name_and_no_port_are_errors_of_the_connection(host: str, port: int) -> None:
    with pytest.raises(OSError):
        reach(host, port, 5.0, lambda _: None)


def test_nobody_is_waited_for_beyond_the_limit() -> None:
    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(TimeoutError, match="no answer"),
    ):
        reach("127.0.0.1", server.getsockname()[1], 0.2, lambda _: time.sleep(60.0))
    assert time.monotonic() - began < 30


def test_a_signal_ends_the_wait_at_any_moment_and_silently() -> None:
    """Python's own `Thread.start` lets one in some thousand such threads fail aloud."""
    asked = subprocess.run(
        [sys.executable, "-c", ENDED_AT_ANY_MOMENT],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (asked.returncode, asked.stderr) == (0, "")
