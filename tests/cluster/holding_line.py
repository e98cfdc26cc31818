"""A line to a server that can be held: connections stay open, and no byte comes through."""

import contextlib
import socket
import threading
from typing import Self
from urllib.parse import urlsplit


class HoldingLine:
    """Hands bytes of TCP connections on, both ways, until `hold`."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._held = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def hold(self) -> None:
        """From now on nothing is handed on, as from a machine without power."""
        self._held.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.close()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._upstream)
                self._sockets += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._hand_on, args=ends, daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                some = source.recv(2**16)
                if not some and not self._held.is_set():
                    target.shutdown(socket.SHUT_WR)
                if not some:
                    return
                if not self._held.is_set():
                    target.sendall(some)
