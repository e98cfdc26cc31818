"""What `--address` stands for, and whether a head of Ray answers there.

Measured on Ray 2.60: `ray.init` hangs for minutes on an address where nothing listens, and for ever
where something accepts and does not answer; where it is another service of HTTP/2, or the head
wants another token, it prints pages and gives up after most of a minute. All the while it hears no
signal. So whoever answers is asked first, and nobody who has not answered is left to it.
"""

import contextlib
import os
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from evalsuite.errors import EnvironmentProblem, UsageError, first_line
from evalsuite.runtime.greeting import Answer, answer_of, speaks_http2
from evalsuite.runtime.reaching import reach

PROBE_S = 5.0
ANSWER_S = (5.0, 10.0, 15.0)
"""For a call, by whoever has greeted: on a connection each, as one may have lost its other end."""
PAUSE_S = 0.5
"""After a connection that was ended."""
LAST_PORT = 2**16 - 1
_AUTH_MODE = "RAY_AUTH_MODE"
_REMEDY = "check the address, or leave --address out for a private local Ray"


def check_address(address: str, notice: Callable[[str], None] | None = None) -> str:
    """What `auto` or `host:port` stands for, where a head answers; asks it, and starts nothing.

    Args:
        address: as it was given.
        notice: is told in one line that an answer is waited for.

    Raises:
        UsageError: an address of another kind.
        EnvironmentProblem: no head answers there, or it wants another token.
    """
    said, is_noted = f"--address {address!r}", False
    if address == "auto":
        address, said, is_noted = _meant_by_auto()
    host, port = _parts(address, said)
    try:
        speaks = reach(host, port, PROBE_S, speaks_http2)
    except TimeoutError as error:
        silent = f"no answer from {address} in {PROBE_S:.0f} s: {_REMEDY}"
        raise EnvironmentProblem(silent) from error
    except OSError as error:
        raise EnvironmentProblem(f"nothing answers at {address} ({error}): {_REMEDY}") from error
    if not speaks:
        raise _no_head(address)
    shows_token = os.environ.get(_AUTH_MODE, "token" if is_noted else "").lower() == "token"
    _check_head(address, host, port, notice or (lambda _: None), shows_token)
    return address


def token_problem(address: str, *, refused: bool) -> EnvironmentProblem:
    """Of a cluster that does not let us in.

    Args:
        address: of it.
        refused: it was shown a token; else it wants one, and none is set.
    """
    wrong = "refuses this token" if refused else "wants a token"
    return EnvironmentProblem(
        f"the cluster at {address} {wrong}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or"
        " RAY_AUTH_TOKEN_PATH, or the file ~/.ray/auth_token) to the token that its nodes have"
    )


def _meant_by_auto() -> tuple[str, str, bool]:
    """What Ray would take, who said so, and whether this user's `ray start` noted it, or root's.

    The environment goes before that.
    """
    named = os.environ.get("RAY_ADDRESS", "").strip()
    if named and named != "auto":
        return named, f"--address auto: RAY_ADDRESS={named!r}", False
    folder = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))  # noqa: S108
    noted, is_ours = Path(folder, "ray/ray_current_cluster"), False  # there `ray start` writes it
    with contextlib.suppress(OSError), noted.open(encoding="utf-8") as file:
        named = file.read().strip()
        owner = os.fstat(file.fileno()).st_uid
        is_ours = owner in {0, os.getuid()}  # others may write there too, to be shown our token
    if ":" not in named:  # Ray would take any head that runs here, other people's private ones too
        raise EnvironmentProblem(
            "--address auto: RAY_ADDRESS names no head, and none was started here by"
            " `ray start` (without --temp-dir): give its host:port"
        )
    return named, f"--address auto: {named!r} in {noted}", is_ours


def _parts(address: str, said: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port."""
    if address.startswith("ray://"):
        raise UsageError(f"{said}: ray:// is not supported: give host:port of the cluster's head")
    if "://" in address:
        raise UsageError(
            f"{said} is a URL: give host:port of the cluster's head, without"
            f" {address.partition('://')[0]}://"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not host:
        kinds = "local, auto or host:port" if said == f"--address {address!r}" else "host:port"
        raise UsageError(f"{said} must be {kinds}")
    if not 0 < int(port) <= LAST_PORT:
        raise UsageError(f"{said}: a port is a number of 1 to {LAST_PORT}")
    return host.strip("[]"), int(port)


def _check_head(
    address: str, host: str, port: int, notice: Callable[[str], None], shows_token: bool
) -> None:
    """A head answers there and lets us in; the token is shown only to whoever wants one.

    Raises:
        EnvironmentProblem: it does not.
    """
    answer = _awaited(address, host, port, b"", notice)
    token = _authorization(address) if shows_token and answer is Answer.WANTS_TOKEN else b""
    if token:
        answer = _awaited(address, host, port, token, notice)
    if answer is Answer.NO_HEAD:
        raise _no_head(address)
    if answer is Answer.WANTS_TOKEN:
        raise token_problem(address, refused=bool(token))


def _awaited(
    address: str, host: str, port: int, authorization: bytes, notice: Callable[[str], None]
) -> Answer:
    """The answer to a call, which heads give even when they have much to do."""

    def ask(connection: socket.socket) -> Answer:
        return answer_of(connection, host, port, authorization)

    waited = False
    for limit_s in ANSWER_S:
        try:
            return reach(host, port, limit_s, ask)
        except TimeoutError:
            if not waited:
                notice(f"{address} accepts connections; its answer is waited for")
            waited = True
        except OSError:
            time.sleep(PAUSE_S)
    raise EnvironmentProblem(
        f"what listens at {address} accepts connections but does not answer as a head of Ray does:"
        f" {_REMEDY}"
    )


def _no_head(address: str) -> EnvironmentProblem:
    return EnvironmentProblem(f"what answers at {address} is not a head of Ray: {_REMEDY}")


def _authorization(address: str) -> bytes:
    """What Ray's own clients say to a head that wants a token; empty where there is none.

    They show it where RAY_AUTH_MODE asks for it and, as `ray start` turns tokens on by itself where
    it finds one, also to the head that it noted on this machine; Ray does so from here on.

    Raises:
        EnvironmentProblem: the file that should hold it cannot be read, or this Ray has no tokens.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.exceptions import RayError
    try:
        from ray._raylet import (  # type: ignore[attr-defined]  # Ray's stub leaves them out
            AuthenticationTokenLoader,
            Config,
        )

        loader = AuthenticationTokenLoader.instance()
        if not loader.has_token(ignore_auth_mode=True):
            return b""
        headers = loader.get_token_for_http_header(ignore_auth_mode=True)
        if _AUTH_MODE not in os.environ:
            os.environ[_AUTH_MODE] = "token"
            Config.initialize("")  # it has read the mode before
    except (ImportError, TypeError) as error:
        raise EnvironmentProblem(
            f"the cluster at {address} wants a token, which Ray {ray.__version__} here cannot show:"
            " install the cluster's Ray"
        ) from error
    except RayError as error:
        reason = first_line(error).partition(". ")[0]
        raise EnvironmentProblem(f"Ray's token cannot be read: {reason}") from error
    return str(headers["authorization"]).encode()
