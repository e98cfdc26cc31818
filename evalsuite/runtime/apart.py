"""Work that may be held for ever by something that does not answer, watched from outside."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Ending(Generic[T]):
    value: T
    error: BaseException | None = None


def run_apart(work: Callable[[], T], check: Callable[[], None], every_s: float = 0.2) -> T:
    """Run `work` in a thread of its own, and `check` in this one meanwhile.

    Args:
        work: gives the result; what it raises is raised here.
        check: asked again and again; when it raises, the work is left to itself, and the thread
            ends with the process.
        every_s: between two checks.
    """
    ending: _Ending[T] = _Ending()
    over = threading.Event()

    def do() -> None:
        try:
            ending.value = work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            ending.error = error
        finally:
            over.set()

    threading.Thread(target=do, name="driver", daemon=True).start()
    while not over.wait(every_s):
        check()
    if ending.error is not None:
        raise ending.error
    return ending.value
