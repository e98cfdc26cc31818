"""Signals within the work of a driver: one that it does not end by is not lost."""

import contextlib
import signal
from collections.abc import Iterator

import pytest

from evalsuite.errors import DataError, DivergedError, Interrupted, WorkerError
from evalsuite.runtime.signals import StopRequest, signals_to

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Ended(Exception):  # noqa: N818 - what a command's own handlers raise
    pass


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """As a command has them."""

    def end(number: int, frame: object) -> None:
        raise Ended(signal.Signals(number).name)

    before = {number: signal.signal(number, end) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def work(number: signal.Signals, error: Exception | None) -> None:
    """A driver's, in which a signal comes, and which ends with this error."""
    stop = StopRequest()
    with signals_to(stop):
        signal.raise_signal(number)
        assert stop.requested
        if error is not None:
            raise error


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("error", [None, DataError("a bad file"), DivergedError("NaN pixels")])
def test_one_that_came_too_late_ends_the_command(
    number: signal.Signals, error: DataError | None
) -> None:
    """As the last shard commits; or where a sweep would go on without what diverged."""
    with pytest.raises(Ended, match=number.name):
        work(number, error)


@pytest.mark.parametrize("error", [Interrupted("stopped"), WorkerError("lost too often")])
def test_work_that_ended_by_it_ends_once(error: Exception) -> None:
    with pytest.raises(type(error)):
        work(signal.SIGTERM, error)


def test_without_a_signal_nothing_is_raised() -> None:
    with signals_to(StopRequest()):
        pass
    with pytest.raises(DataError), signals_to(StopRequest()):
        raise DataError("a bad file")
    with contextlib.suppress(Ended):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the handler of before is not back")
