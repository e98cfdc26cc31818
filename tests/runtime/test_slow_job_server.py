"""Handing a job over to a head that takes its time: a slow line, an answer that does not come."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray

from evalsuite.errors import EnvironmentProblem
from evalsuite.runtime import job_client
from evalsuite.runtime.jobs import JobServer

PACKAGE_BYTES = 24 * 2**20
"""More than the buffers of a connection hold."""


class SlowHead(ThreadingHTTPServer):
    """Reads packages slowly, and never answers to jobs that it may take all the same."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.takes_jobs = True
        self.uploaded = 0
        self.jobs: dict[str, dict[str, Any]] = {}
        self.over = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """As far as a submission goes."""

    server: SlowHead

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.path == "/api/version":
            self._answer(200, {"version": "4", "ray_version": ray.__version__})
        elif name in self.server.jobs:
            self._answer(200, self.server.jobs[name])
        else:
            self._answer(404, {"text": f"{name} does not exist"})

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 2**20)))
            time.sleep(0.04)
        self.server.uploaded += int(self.headers["Content-Length"])
        self._answer(200, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.takes_jobs:
            about = {name: asked[name] for name in ("entrypoint", "metadata")}
            about |= {"type": "SUBMISSION", "status": "PENDING"}
            self.server.jobs[asked["submission_id"]] = about
        self.server.over.wait(30)

    def log_message(self, *_: object) -> None:
        """Nothing to say."""

    def _answer(self, code: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowHead]:
    monkeypatch.setattr(job_client, "SENDING_S", (0.4, 0.8))
    monkeypatch.setattr("evalsuite.runtime.jobs.ANSWER_S", 0.5)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # given back: a client of Ray prefers it
    with SlowHead() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def address_of(head: SlowHead) -> str:
    return f"http://127.0.0.1:{head.server_address[1]}"


def test_a_package_may_take_longer_than_a_piece_of_it(head: SlowHead, tmp_path: Path) -> None:
    """And a job whose answer is lost was submitted all the same."""
    package = tmp_path / "package.zip"
    package.write_bytes(bytes(PACKAGE_BYTES))
    began = time.monotonic()
    job_id = JobServer(address_of(head)).submit("exec true", package, {}, None)
    assert time.monotonic() - began > 2 * job_client.SENDING_S[0]
    assert head.uploaded == PACKAGE_BYTES
    assert list(head.jobs) == [job_id]


def test_a_job_that_was_not_taken_has_failed(head: SlowHead) -> None:
    head.takes_jobs = False
    server = JobServer(address_of(head))
    with pytest.raises(EnvironmentProblem, match=r"cannot submit the job at .*timed out"):
        server.submit("exec true", None, {}, "mine")
    # one of yesterday, of the same name and command
    head.jobs["mine"] = {"type": "SUBMISSION", "status": "SUCCEEDED", "entrypoint": "exec true"}
    with pytest.raises(EnvironmentProblem, match="cannot submit the job"):
        server.submit("exec true", None, {}, "mine")
