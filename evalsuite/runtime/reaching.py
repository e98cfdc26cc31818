"""Whether something answers at a host and port, within a limit that looking up names counts in."""

import _thread
import queue
import socket
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
    outcome: queue.SimpleQueue[T | OSError] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            with socket.create_connection((host, port), timeout=limit_s) as connection:
                outcome.put(ask(connection))
        except OSError as error:
            outcome.put(error)
        except (OverflowError, UnicodeError) as error:  # no port or no name that there can be
            outcome.put(OSError(str(error)))

    # Looking a name up knows no limit. And a signal whose handler raises while `Thread.start` waits
    # for a thread makes that thread fail aloud (Python 3.11).
    _thread.start_new_thread(attempt, ())
    try:
        found = outcome.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError("no answer") from None
    if isinstance(found, OSError):
        raise found
    return found
