"""Whether a head of Ray answers a connection: asked in frames of HTTP/2, before Ray itself is.

Sources: RFC 9113 (frames), RFC 7541 (their fields), and gRPC's `PROTOCOL-HTTP2.md`. A package for
gRPC need not be there, and Ray's own client waits and prints as it likes where no head is.
"""

import itertools
import os
import socket

_FRAME_HEAD_BYTES, _LONGEST_FRAME, _MOST_FRAMES = 9, 2**14, 32
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_CALL_STREAM = 1
_METHOD = b"/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Which every head knows; asked without a token, one that wants it says so, in gRPC too."""
_GRPC = (b"application/grpc", bytes.fromhex("1d75d0620d263d4c4d6564"))
"""A content type, plainly and in Huffman's code (RFC 7541, appendix B)."""
_STATUS = (b"\x0bgrpc-status", bytes.fromhex("889acac8b21234da8f"))
_UNIMPLEMENTED = (b"\x0212", bytes.fromhex("8208bf"))
_NO_SUCH_METHOD = tuple(map(b"".join, itertools.product(_STATUS, _UNIMPLEMENTED)))


def speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side greets as servers of gRPC do; with Ray's TLS on, it is not asked.

    Raises:
        OSError: no greeting, TimeoutError among them.
    """
    if _is_encrypted():
        return True
    connection.sendall(_hello())
    return _received(connection, _FRAME_HEAD_BYTES)[3:4] == bytes([_SETTINGS])


def is_no_head(connection: socket.socket, host: str, port: int) -> bool:
    """Whether the other side answers a call of a head's as no head would.

    That is in other words than gRPC's, or by those for a method that it does not have. Whoever
    ends the connection, or answers in a way that is not understood, may be a head.

    Args:
        connection: to it.
        host: that was asked for, by which a proxy may know whom the call is for.
        port: of it.

    Raises:
        UnicodeError: a name that is not written in ASCII.
        OSError: no answer, TimeoutError among them.
    """
    if _is_encrypted():
        return False
    name = f"[{host}]" if ":" in host else host  # as gRPC's own client calls it
    connection.sendall(_hello() + _call(f"{name}:{port}".encode("ascii")))
    is_first = True
    for _ in range(_MOST_FRAMES):
        kind, flags, stream, content = _next_frame(connection)
        if (kind, stream) != (_HEADERS, _CALL_STREAM):
            continue
        if is_first and flags & _END_HEADERS and not _holds(content, _GRPC):
            return True
        if _holds(content, _NO_SUCH_METHOD):
            return True
        if flags & _END_STREAM:
            return False
        is_first = False
    return False


def _is_encrypted() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() not in {"", "0", "false"}


def _hello() -> bytes:
    """Both sides' first words: a preface, then SETTINGS, empty here (RFC 9113, 3.4 and 6.5)."""
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")


def _call(authority: bytes) -> bytes:
    """A call of `_METHOD` with an empty message; no field is kept in a table (RFC 7541, 6.2.2)."""
    fields = b"\x83\x86"  # POST and http, of the static table
    fields += b"\x04" + _text(_METHOD) + b"\x01" + _text(authority)  # its 4 is :path, 1 :authority
    fields += b"\x0f\x10" + _text(_GRPC[0])  # 31 is content-type
    fields += b"\x00" + _text(b"te") + _text(b"trailers")
    head = _frame(_HEADERS, _END_HEADERS, _CALL_STREAM, fields)
    return head + _frame(_DATA, _END_STREAM, _CALL_STREAM, bytes(5))


def _text(content: bytes) -> bytes:
    """As it is, behind its length, of which a first byte holds less than 127 (RFC 7541, 5.1)."""
    rest = len(content) - 127
    if rest < 0:
        return bytes([len(content)]) + content
    more = [rest & 127 | 128, rest >> 7] if rest > 127 else [rest]
    return bytes([127, *more]) + content


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def _next_frame(connection: socket.socket) -> tuple[int, int, int, bytes]:
    """Type, flags, stream and content.

    Raises:
        OSError: the connection ended, or this is no frame that we have allowed.
    """
    head = _received(connection, _FRAME_HEAD_BYTES)
    size = int.from_bytes(head[:3])
    if len(head) < _FRAME_HEAD_BYTES or size > _LONGEST_FRAME:
        raise ConnectionError("no frame of HTTP/2")
    return head[3], head[4], int.from_bytes(head[5:]), _received(connection, size)


def _received(connection: socket.socket, num_bytes: int) -> bytes:
    """So many bytes, or less where the other side ends."""
    found = b""
    while len(found) < num_bytes and (more := connection.recv(num_bytes - len(found))):
        found += more
    return found


def _holds(block: bytes, words: tuple[bytes, ...]) -> bool:
    """Whether a block of fields holds one of these.

    Its first answer is read before anything can stand in the other side's table, so that what it
    says stands in it, in one of two codes.
    """
    return any(word in block for word in words)
