"""Whether a head of Ray answers a connection: asked in frames of HTTP/2, before Ray itself is.

Sources: RFC 9113 (frames), RFC 7541 (their fields), and gRPC's `PROTOCOL-HTTP2.md`. A package for
gRPC need not be there, and Ray's own client waits and prints as it likes where no head is.
"""

import enum
import os
import socket
from collections.abc import Iterator

_FRAME_HEAD_BYTES, _LONGEST_FRAME, _MOST_FRAMES = 9, 2**14, 32
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
_CALL_STREAM = 1
_VARINT, _LENGTH, _VERSION_FIELD = 0, 2, 2
_METHOD = b"/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Which every head answers, whatever else it has to do; one that wants a token says so."""
_GRPC = (b"application/grpc", bytes.fromhex("1d75d0620d263d4c4d6564"))
"""A content type, plainly and in Huffman's code (RFC 7541, appendix B)."""
_STATUS = (b"\x0bgrpc-status", bytes.fromhex("889acac8b21234da8f"))


class Answer(enum.Enum):
    """Of whoever was asked as heads are."""

    HEAD = "0"
    """Values are gRPC's codes of status: OK, ..."""
    NO_HEAD = "12"
    """... UNIMPLEMENTED, for a method that it does not have; or words that are not gRPC's ..."""
    WANTS_TOKEN = "16"  # noqa: S105 - a code
    """... and UNAUTHENTICATED: no token was shown, or another one than its own."""


_CODES = {
    Answer.HEAD: (b"\x010", bytes.fromhex("8107")),
    Answer.NO_HEAD: (b"\x0212", bytes.fromhex("8208bf")),
    Answer.WANTS_TOKEN: (b"\x0216", bytes.fromhex("820b9f")),
}
_SAID = {
    name + code: answer for answer, codes in _CODES.items() for name in _STATUS for code in codes
}


def speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side greets as servers of gRPC do; with Ray's TLS on, it is not asked.

    Raises:
        OSError: no greeting, TimeoutError among them.
    """
    if _is_encrypted():
        return True
    connection.sendall(_hello())
    return _received(connection, _FRAME_HEAD_BYTES)[3:4] == bytes([_SETTINGS])


def answer_of(
    connection: socket.socket, host: str, port: int, authorization: bytes = b""
) -> Answer:
    """What the other side says to a call that every head knows.

    With Ray's TLS on nobody is asked, and whoever listens counts as a head.

    Args:
        connection: to it.
        host: that was asked for, by which a proxy may know whom the call is for.
        port: of it.
        authorization: the field of that name, `Bearer` and a token; empty to show none.

    Raises:
        UnicodeError: a name that is not written in ASCII.
        OSError: no answer, or another one than these; TimeoutError: none for now.
    """
    if _is_encrypted():
        return Answer.HEAD
    name = f"[{host}]" if ":" in host else host  # as gRPC's own client calls it
    connection.sendall(_hello() + _call(f"{name}:{port}".encode("ascii"), authorization))
    is_first, message = True, b""
    for kind, flags, content in _frames_of_call(connection):
        if kind == _DATA:
            message += content
        if kind != _HEADERS:
            continue
        if is_first and flags & _END_HEADERS and not _holds(content, _GRPC):
            return Answer.NO_HEAD
        is_first = False
        said = next((answer for words, answer in _SAID.items() if words in content), None)
        if said is not None:
            is_reply = said is not Answer.HEAD or _tells_version(message)
            return said if is_reply else Answer.NO_HEAD
    raise ConnectionError("the call was ended without an answer of a head's")


def _frames_of_call(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and content of each frame of the call's, until it is ended or given up."""
    for _ in range(_MOST_FRAMES):
        kind, flags, stream, content = _next_frame(connection)
        if kind == _GOAWAY and int.from_bytes(content[:4]) < _CALL_STREAM:
            return
        if stream == _CALL_STREAM:
            yield kind, flags, content
            if kind == _RST_STREAM or flags & _END_STREAM:
                return


def _is_encrypted() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() not in {"", "0", "false"}


def _hello() -> bytes:
    """Both sides' first words: a preface, then SETTINGS, empty here (RFC 9113, 3.4 and 6.5)."""
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")


def _call(authority: bytes, authorization: bytes) -> bytes:
    """A call of `_METHOD` with an empty message; no field is kept in a table (RFC 7541, 6.2.2)."""
    fields = b"\x83\x86"  # POST and http, of the static table
    fields += b"\x04" + _text(_METHOD) + b"\x01" + _text(authority)  # its 4 is :path, 1 :authority
    fields += b"\x0f\x10" + _text(_GRPC[0])  # 31 is content-type
    fields += b"\x00" + _text(b"te") + _text(b"trailers")
    if authorization:  # 23, and kept in no table of anybody's on the way (7.1.3)
        fields += b"\x1f\x08" + _text(authorization)
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


def _tells_version(message: bytes) -> bool:
    """Whether this is a CheckAliveReply behind gRPC's five bytes: its second field, text, is there.

    Source: `gcs_service.proto` of Ray, where it is `ray_version`, which heads fill in.
    """
    content = message[5:]
    if message[:1] != b"\x00" or int.from_bytes(message[1:5]) != len(content):
        return False
    place, found = 0, False
    try:
        while place < len(content):
            key, place = _number(content, place)
            if key & 7 == _VARINT:
                _, place = _number(content, place)
            elif key & 7 == _LENGTH:
                size, place = _number(content, place)
                place += size
                found |= key >> 3 == _VERSION_FIELD
            else:
                return False
    except IndexError:
        return False
    return found and place == len(content)


def _number(content: bytes, place: int) -> tuple[int, int]:
    """A varint of protobuf, and the place after it.

    Raises:
        IndexError: the content ends before it does.
    """
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


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
