"""A server on the loopback that speaks the part of the hub's protocol that downloads need."""

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIRST, SECOND = "1" * 40, "2" * 40
LARGE = 100  # bytes from which a file is one of LFS, with a SHA-256


@dataclass
class Hub:
    """Repositories by name, commits and branches; what a test may change while it runs.

    Attributes:
        files: content by (commit, filename).
        branches: the commit of each branch.
        reported: hashes that the hub tells instead of the right ones, by filename.
        served_commit: the commit that answers name, where it is not the one asked for.
        requests: method and path of everything that was asked.
    """

    repo: str = "someone/model"
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": FIRST})
    reported: dict[str, str] = field(default_factory=dict)
    served_commit: str | None = None
    gated: bool = False
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def hash_of(self, filename: str, content: bytes) -> str:
        """SHA-256 of large files, git's hash of small ones."""
        if filename in self.reported:
            return self.reported[filename]
        if len(content) >= LARGE:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def entry(self, commit: str, name: str) -> dict[str, object]:
        """What a listing says of a file."""
        content = self.files[commit, name]
        told = self.hash_of(name, content)
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content)}
        if len(told) == 64:
            lfs = {"oid": told, "size": len(content), "pointerSize": 130}
            return {**entry, "oid": "0" * 40, "lfs": lfs}
        return {**entry, "oid": told}


class _Handler(BaseHTTPRequestHandler):
    """Answers about the hub of its server."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = urllib.parse.unquote(self.path.partition("?")[0])
        api, files = f"/api/models/{self.hub.repo}/", f"/{self.hub.repo}/resolve/"
        if self.hub.gated:
            self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
        elif path.startswith(api):
            self.answer_api(*path.removeprefix(api).split("/", 1))
        elif path.startswith(files):
            self.answer_file(*path.removeprefix(files).split("/", 1))
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer_api(self, kind: str, revision: str) -> None:
        commit = self.hub.branches.get(revision, revision)
        names = [name for known, name in self.hub.files if known == commit]
        if not names:
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": name} for name in names]
        about: object = {"id": self.hub.repo, "sha": commit, "siblings": siblings}
        if kind == "tree":
            about = [self.hub.entry(commit, name) for name in names]
        self.reply(200, json.dumps(about).encode(), {})

    def answer_file(self, revision: str, name: str) -> None:
        commit = self.hub.branches.get(revision, revision)
        content = self.hub.files.get((commit, name))
        if content is None:
            known = any(c == commit for c, _ in self.hub.files)
            code = "EntryNotFound" if known else "RevisionNotFound"
            self.reply(404, b"", {"X-Error-Code": code, "X-Repo-Commit": commit})
            return
        told = self.hub.hash_of(name, content)
        headers = {"ETag": f'"{told}"', "X-Repo-Commit": self.hub.served_commit or commit}
        if len(told) == 64:
            headers["X-Linked-Etag"] = f'"{told}"'
            headers["X-Linked-Size"] = str(len(content))
        self.reply(200, content, headers)

    def reply(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub until the end of the block."""
    server = _Server(hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
