"""What listens at an address and speaks HTTP/2, and is no head of Ray: real sockets, no Ray."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import NUM_SAMPLES, PLAN, Outcome, finish, start

from evalsuite.errors import EnvironmentProblem
from evalsuite.runtime import address as address_module
from evalsuite.runtime.address import check_address
from evalsuite.runtime.greeting import Answer, answer_of

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


def data(message: bytes) -> bytes:
    """A frame with one message of gRPC's on the same stream."""
    content = b"\x00" + len(message).to_bytes(4) + message
    return len(content).to_bytes(3) + bytes([0, 0]) + (1).to_bytes(4) + content


REPLY = b"\n\x00\x12\x062.60.0 \x01"
"""Of a head of Ray 2.60."""
HEAD = headers(OK + GRPC, last=False) + data(REPLY) + headers(STATUS.replace(b"\x02", b"\x010"))
GOAWAY = b"\x00\x00\x08\x07\x00" + bytes(12)
RST_STREAM = b"\x00\x00\x04\x03\x00" + (1).to_bytes(4) + bytes(4)
OF_NO_NAME = headers(OK + GRPC + STATUS + b"12")


@contextlib.contextmanager
def service(answer: bytes, *, stays: bool = True, then: bytes | None = None) -> Iterator[str]:
    """A server that greets in HTTP/2 and answers any call; gives its address.

    The first call gets one answer, all others the same or another. As behind a proxy that routes
    by name, to calls of another name no method is known.
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
                    said = answer if then is None or not calls else then
                    calls.append(heard)
                    connection.sendall(said if address.encode() in heard else OF_NO_NAME)
                    if not stays:
                        return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    calls: list[bytes] = []
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
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n\x00 \x01", id="without a version"),
        pytest.param(b"<html>", id="text"),
        pytest.param(REPLY[:-1], id="cut"),
    ],
)
def test_a_reply_that_is_no_heads_is_refused_at_once(message: bytes) -> None:
    answer = HEAD.replace(data(REPLY), data(message))
    with service(answer) as address, pytest.raises(EnvironmentProblem, match="is not a head of"):
        check_address(address)


def test_a_head_is_one() -> None:
    with service(HEAD) as address:
        assert check_address(address) == address


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a tenth of a second where one would wait ten."""
    monkeypatch.setattr(address_module, "ANSWER_S", (0.1, 0.2, 0.3))
    monkeypatch.setattr(address_module, "PAUSE_S", 0.05)


@pytest.mark.parametrize(
    ("answer", "stays", "num_notices"),
    [
        pytest.param(b"", True, 1, id="silent"),
        pytest.param(headers(OK + GRPC, last=False), True, 1, id="silent after a first word"),
        pytest.param(b"", False, 0, id="ends"),
        pytest.param(GOAWAY, False, 0, id="says that it goes"),
        pytest.param(GOAWAY, True, 0, id="says that it goes, and stays"),
        pytest.param(RST_STREAM, True, 0, id="ends the call"),
        pytest.param(b"\xff" * 64, True, 0, id="not understood"),
        pytest.param(headers(OK + GRPC + STATUS + b"14"), True, 0, id="unavailable"),
    ],
)
def test_whoever_does_not_answer_is_refused_after_a_while(
    answer: bytes, stays: bool, num_notices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    notices: list[str] = []
    with service(answer, stays=stays) as address, pytest.raises(EnvironmentProblem) as caught:
        check_address(address, notices.append)
    assert str(caught.value).startswith(
        f"what listens at {address} accepts connections but does not answer as a head of Ray does:"
    )
    waits = f"{address} accepts connections; its answer is waited for"
    assert notices == [waits] * num_notices


@pytest.mark.parametrize("first", [b"", GOAWAY], ids=["silent", "goes"])
def test_a_head_is_asked_again_on_another_connection(
    first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with service(first, then=HEAD) as address:
        assert check_address(address) == address


def test_a_signal_ends_the_wait_for_an_answer(tmp_path: Path) -> None:
    """Of which 25 s are left; the process needs some to end on a busy machine."""
    words = ("generate", *PLAN, "--num-samples", NUM_SAMPLES, "--output", "a")
    with service(b"") as address:
        driver = start(*words, "--address", address, cwd=tmp_path)
        waits = f"evalsuite: {address} accepts connections; its answer is waited for\n"
        assert waits in iter(driver.stderr.readline, "")
        began = time.monotonic()
        driver.send_signal(signal.SIGTERM)
        outcome = finish(driver)
        assert time.monotonic() - began < 12
    assert outcome.code == 128 + signal.SIGTERM
    (line,) = outcome.complaints
    assert line.startswith("evalsuite: stopped by")
    assert not (tmp_path / "a").exists()


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
        theirs.sendall(HEAD)
        assert answer_of(ours, host, 6379) is Answer.HEAD
        assert field + b"\x0f\x10" in theirs.recv(4096)


@pytest.mark.parametrize("code", [b"\x0216", b"\x82\x0b\x9f"], ids=["plainly", "in Huffman's code"])
def test_a_token_is_shown_to_those_who_want_one_alone(code: bytes) -> None:
    shown = b"\x1f\x08\x0bBearer 1234"
    for token, seen in ((b"", False), (b"Bearer 1234", True)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(headers(OK + GRPC + STATUS[:-1] + code))
            assert answer_of(ours, "a.b", 6379, token) is Answer.WANTS_TOKEN
            assert (shown in theirs.recv(4096)) == seen


def test_a_command_says_it_in_one_line(call: Callable[..., Outcome]) -> None:
    with service(headers(NOT_FOUND)) as address:
        outcome = call(
            "generate", *PLAN, "--num-samples", NUM_SAMPLES, "--output", "a", "--address", address
        )
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert line.startswith(f"evalsuite: what answers at {address} is not a head of Ray: check the")
