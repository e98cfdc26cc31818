"""A real HTTP proxy before a store: it counts requests, and fails some of them as a test says.

    with FlakyStore(store.url) as proxy:
        proxy.decide = one_in(5, "refuse", "lose", "cut", seed=1)
        ...  # AWS_ENDPOINT_URL=proxy.url
        proxy.count("PUT")

A fault is one word:

    pass    hand the request on (the default)
    refuse  answer 503 SlowDown without handing it on
    lose    hand it on, and close the connection instead of answering: the answer is lost
    cut     read half of what is sent, and close the connection; nothing is handed on
    half    hand it on, and close the connection in the middle of the answer's body
    say:N   answer the status N without handing it on
    wait:S  wait S seconds, then hand it on
"""

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Request(NamedTuple):
    """One request as it came in."""

    method: str
    path: str
    """With the query."""
    num_bytes: int
    fault: str


Decide = Callable[[str, str], str]
"""(method, path with query) to the fault that the request gets."""


def one_in(count: int, *faults: str, seed: int = 0) -> Decide:
    """Each request fails with probability 1 / count, by one of `faults`."""
    chance = random.Random(seed)
    lock = threading.Lock()

    def decide(method: str, path: str) -> str:
        with lock:
            return chance.choice(faults) if chance.random() < 1 / count else "pass"

    return decide


class FlakyStore:
    """The proxy, on a free port of the loopback."""

    def __init__(self, upstream: str) -> None:
        self.decide: Decide = lambda method, path: "pass"
        self.requests: list[Request] = []
        self._upstream = urlsplit(upstream).netloc
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FlakyStore":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, holding: str = "") -> int:
        """Requests of a method whose path or query holds a text."""
        return sum(r.method == method and holding in r.path for r in self.requests)

    def faults(self) -> int:
        """Requests that were disturbed."""
        return sum(request.fault != "pass" for request in self.requests)

    def answer_of(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the store behind says."""
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FlakyStore

    def log_message(self, format: str, *words: object) -> None:
        """Nothing on stderr."""

    def _serve(self) -> None:
        store, size = self.store, int(self.headers.get("Content-Length") or 0)
        fault = store.decide(self.command, self.path)
        store.requests.append(Request(self.command, self.path, size, fault))
        if fault == "cut":
            self.rfile.read(size // 2)
            self._hang_up()
            return
        body = self.rfile.read(size)
        if fault == "refuse":
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if fault.startswith("say:"):
            self._answer(int(fault.removeprefix("say:")), [], b"")
            return
        if fault.startswith("wait:"):
            time.sleep(float(fault.removeprefix("wait:")))
        status, headers, content = store.answer_of(
            self.command, self.path, dict(self.headers.items()), body
        )
        if fault == "lose":
            self._hang_up()
        else:
            self._answer(status, headers, content, cut=fault == "half")

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        hop = {"connection", "transfer-encoding", "keep-alive"}
        sized = any(name.lower() == "content-length" for name, _ in headers)
        for name, value in headers:
            if name.lower() not in hop:
                self.send_header(name, value)
        if not sized and status >= 200 and status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve
