"""Whether something answers at a host and port, within a limit that looking up names counts in."""

import socket
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def reach(host: str, port: int, limit_s: float, ask: Callable[[socket.socket], T]) -> T:
    """Connect, ask, and hang up.

    Args:
        host: name or address.
        port: of TCP.
        limit_s: for all of it.
        ask: gets the connection.

    Returns:
        What `ask` gives.

    Raises:
        OSError: nothing takes the connection; TimeoutError: not within the limit.
    """
    outcome: list[T | OSError] = []

    def attempt() -> None:
        try:
            with socket.create_connection((host, port), timeout=limit_s) as connection:
                outcome.append(ask(connection))
        except OSError as error:
            outcome.append(error)
        except (OverflowError, UnicodeError) as error:  # no port or no name that there can be
            outcome.append(OSError(str(error)))

    thread = threading.Thread(target=attempt, daemon=True)  # looking a name up knows no limit
    thread.start()
    thread.join(limit_s)
    found = outcome[0] if outcome else TimeoutError("no answer")
    if isinstance(found, OSError):
        raise found
    return found
