"""Work that is held for ever is left to itself, and a process that slept blames nobody."""

import threading
import time

import pytest

from evalsuite.runtime.apart import run_apart
from evalsuite.runtime.watch import ClusterWatch


def test_the_result_and_the_error_of_the_work_come_back() -> None:
    assert run_apart(lambda: 7, lambda: None) == 7

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_apart(fail, lambda: None)


def test_work_that_is_held_is_left_when_the_check_says_so() -> None:
    held = threading.Event()
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        run_apart(held.wait, check, every_s=0.01)
    held.set()


def test_only_time_in_which_the_process_ran_counts_against_the_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an hour of sleep the head has a few seconds to answer, not none."""
    monkeypatch.setattr("evalsuite.runtime.watch.current_nodes", tuple)
    watch = ClusterWatch()
    watch._answered_s = watch._looked_s = time.monotonic() - 3600
    assert watch.seconds_in_vain() == 1.0
    assert watch.seconds_in_vain() == pytest.approx(1.0, abs=0.1)
    watch._answered_s = time.monotonic()
    assert watch.seconds_in_vain() == 0.0
