"""A server of files on the loopback that resumes, breaks off, lies and refuses as it is told."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Files by name, and what a test may change while they are served.

    Attributes:
        files: content by path without the slash.
        ranges: whether `Range` is understood; otherwise the whole file is the answer.
        break_after: bytes of body after which a connection is closed, one for each coming request.
        tells_length: whether there is a Content-Length; otherwise the body is chunked.
        status: answer everything with this.
        requests: path and `Range` of everything that was asked.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    tells_length: bool = True
    status: int | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        site, name, asked = self.server.site, self.path.lstrip("/"), self.headers.get("Range")
        site.requests.append((name, asked))
        content = site.files.get(name)
        if site.status is not None or content is None:
            self.send_response(site.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges else 0
        if first >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
        self.send_body(site, content[first:])

    def send_body(self, site: Site, body: bytes) -> None:
        limit = site.break_after.pop(0) if site.break_after else None
        if site.tells_length:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:limit])
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            part = body[:limit]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if limit is None:
                self.wfile.write(b"0\r\n\r\n")
        if limit is not None:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    def __init__(self, site: Site) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = site


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve until the end of the block; `site.url` ends with a slash."""
    server = _Server(site)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
