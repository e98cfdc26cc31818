"""Faults of a GPU: which would come again, and which may pass."""

import pickle

import pytest
import torch

from evalsuite.errors import EnvironmentProblem
from evalsuite.pipeline.device_faults import (
    device_faults,
    is_device_error,
    out_of_memory,
    wait_for_memory,
)

GIB = 2**30


def test_out_of_memory_by_our_own_batch_would_come_again() -> None:
    error = out_of_memory(80 * GIB, GIB // 2, 78 * GIB, 64)
    assert not error.may_pass
    assert "at batch size 64 (78.0 of 80 GiB are ours)" in str(error)


def test_out_of_memory_beside_others_may_pass() -> None:
    error = out_of_memory(80 * GIB, GIB // 2, 20 * GIB, 64)
    assert error.may_pass
    assert str(error) == "GPU out of memory: other processes hold 58.5 of its 80 GiB"


def test_that_it_may_pass_travels_between_processes() -> None:
    error = out_of_memory(80 * GIB, 0, 20 * GIB, 64)
    copy = pickle.loads(pickle.dumps(error))
    assert copy.may_pass
    assert isinstance(copy, EnvironmentProblem)
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("shape '[2, 3]' is invalid for input of size 5", False),
    ],
)
def test_errors_of_the_device_are_known_by_their_words(text: str, expected: bool) -> None:
    assert is_device_error(RuntimeError(text)) is expected


def test_nothing_is_turned_on_a_cpu() -> None:
    with pytest.raises(RuntimeError, match="CUDA error"), device_faults(torch.device("cpu"), 8):
        raise RuntimeError("CUDA error: it only says so")


def waited(readings: list[int], total: int = 100) -> float:
    """Seconds that a start waits while the free memory goes through `readings`, then stays."""
    slept: list[float] = []
    values = iter(readings)
    last = [readings[-1]]

    def read() -> tuple[int, int]:
        last[0] = next(values, last[0])
        return last[0], total

    wait_for_memory(read, slept.append)
    return sum(slept)


def test_a_free_gpu_is_not_waited_for() -> None:
    assert waited([95]) == 0


def test_memory_that_is_being_freed_is_waited_for() -> None:
    assert waited([10, 10, 40, 95]) == 1.5


def test_memory_that_others_keep_is_waited_for_three_seconds() -> None:
    assert waited([10]) == 3.0


def test_the_wait_has_an_end() -> None:
    assert waited([*range(10, 80)] * 3) == 30.0
