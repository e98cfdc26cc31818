"""What listens at an address and speaks HTTP/2, and is no head of Ray: real sockets, no Ray."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from harness import NUM_SAMPLES, PLAN, Outcome

from evalsuite.errors import EnvironmentProblem
from evalsuite.runtime import cluster as cluster_module
from evalsuite.runtime.cluster import check_address
from evalsuite.runtime.greeting import is_no_head

SETTINGS = bytes(3) + b"\x04\x00" + bytes(4)
PING = b"\x00\x00\x08\x06\x00" + bytes(12)
OK, NOT_FOUND = b"\x88", b"\x8d"
HTML = b"\x0f\x10\x09text/html"
GRPC = b"\x5f\x10application/grpc"
GRPC_PROTO_IN_HUFFMANS_CODE = b"\x5f\x90" + bytes.fromhex("1d75d0620d263d4c4d6564ff75d8749f")
STATUS = b"\x40\x0bgrpc-status\x02"
STATUS_IN_HUFFMANS_CODE = b"\x00" + bytes.fromhex("889acac8b21234da8f")


def headers(fields: bytes, *, last: bool = True) -> bytes:
    """A frame with fields, on the stream of the first call."""
    return len(fields).to_bytes(3) + bytes([1, 5 if last else 4]) + (1).to_bytes(4) + fields


OF_NO_NAME = headers(OK + GRPC + STATUS + b"12")


@contextlib.contextmanager
def service(answer: bytes, *, stays: bool = True) -> Iterator[str]:
    """A server that greets in HTTP/2 and gives one answer to any call; gives its address.

    As behind a proxy that routes by name, to calls of another name no method is known.
    """

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            heard = b""
            while more := connection.recv(4096):
                if not heard:
                    assert more.startswith(b"PRI * HTTP/2.0")
                    connection.sendall(SETTINGS + PING)
                heard += more
                if b"CheckAlive" in heard:
                    connection.sendall(answer if address.encode() in heard else OF_NO_NAME)
                    if not stays:
                        return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=accept, daemon=True).start()
        yield address
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(headers(NOT_FOUND), id="404"),
        pytest.param(headers(OK + HTML, last=False), id="a page"),
        pytest.param(OF_NO_NAME, id="another service of gRPC"),
        pytest.param(
            headers(OK + GRPC, last=False) + headers(STATUS + b"12"), id="one that says it late"
        ),
        pytest.param(
            headers(OK + GRPC_PROTO_IN_HUFFMANS_CODE + STATUS_IN_HUFFMANS_CODE + b"\x82\x08\xbf"),
            id="one in Huffman's code",
        ),
    ],
)
def test_what_is_certainly_no_head_is_refused_at_once(answer: bytes) -> None:
    began = time.monotonic()
    with service(answer) as address, pytest.raises(EnvironmentProblem) as caught:
        check_address(address)
    assert time.monotonic() - began < 2
    assert str(caught.value).startswith(f"what answers at {address} is not a head of Ray: check")


@pytest.mark.parametrize(
    ("answer", "stays"),
    [
        pytest.param(headers(OK + GRPC, last=False) + headers(STATUS + b"0"), True, id="sound"),
        pytest.param(headers(OK + GRPC + b"\x40\x0bgrpc-status\x0216"), True, id="wants a token"),
        pytest.param(b"", True, id="silent: busy"),
        pytest.param(b"", False, id="ends"),
        pytest.param(b"\xff" * 64, True, id="not understood"),
    ],
)
def test_what_may_be_a_head_is_left_to_ray(
    answer: bytes, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "ANSWER_S", 0.5)
    with service(answer, stays=stays) as address:
        assert check_address(address) == address


@pytest.mark.parametrize(
    ("host", "field"),
    [
        ("a.b", b"\x01\x08a.b:6379"),
        ("::1", b"\x01\x0a[::1]:6379"),
        ("h" * 122, b"\x01\x7f\x00" + b"h" * 122 + b":6379"),
        ("h" * 250, b"\x01\x7f\x80\x01" + b"h" * 250 + b":6379"),
    ],
    ids=["name", "IPv6", "127 bytes", "255 bytes"],
)
def test_a_call_names_whom_it_is_for(host: str, field: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(headers(OK + GRPC + STATUS + b"0"))
        assert not is_no_head(ours, host, 6379)
        assert field + b"\x0f\x10" in theirs.recv(4096)


def test_a_command_says_it_in_one_line(call: Callable[..., Outcome]) -> None:
    with service(headers(NOT_FOUND)) as address:
        outcome = call(
            "generate", *PLAN, "--num-samples", NUM_SAMPLES, "--output", "a", "--address", address
        )
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert line.startswith(f"evalsuite: what answers at {address} is not a head of Ray: check the")
