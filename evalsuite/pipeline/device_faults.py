"""Faults of a GPU as errors of one line: which would come again, and which may pass.

Out of memory at the plan's batch size would come again, unless other processes fill the GPU. An
error of the device itself (ECC, a lost device, a failed launch) may pass in a fresh process or on
another GPU; the driver tries a bounded number of times.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from evalsuite.errors import EnvironmentProblem, EvalsuiteError, first_line

FOREIGN_BYTES = 2 * 2**30
"""Memory in use beyond our allocator's and a CUDA context's that counts as somebody else's."""
_CONTEXT_BYTES = 2**30
_SETTLED_SHARE = 0.9
_LONGEST_WAIT_S = 30.0
_STEADY_S = 3.0
_GIB = 2**30


@contextlib.contextmanager
def device_faults(device: torch.device, batch_size: int) -> Iterator[None]:
    """Turn a GPU's faults into errors of one line; of a CPU nothing is turned.

    Args:
        device: where the work is done.
        batch_size: of the plan, for the line.

    Raises:
        EnvironmentProblem: instead of torch's error; `may_pass` says whether to try again.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        if device.type != "cuda":
            raise
        free, total = torch.cuda.mem_get_info(device)
        ours = torch.cuda.memory_reserved(device)
        raise out_of_memory(total, free, ours, batch_size) from error
    except RuntimeError as error:
        if device.type != "cuda" or not is_device_error(error):
            raise
        raise passing(f"the GPU failed: {first_line(error)}") from error


def out_of_memory(total: int, free: int, ours: int, batch_size: int) -> EvalsuiteError:
    """The error for a GPU that is full.

    Args:
        total: bytes of the GPU.
        free: bytes that nobody uses.
        ours: bytes that this process's allocator holds.
        batch_size: of the plan.
    """
    foreign = total - free - ours - _CONTEXT_BYTES
    if foreign > FOREIGN_BYTES:
        return passing(
            f"GPU out of memory: other processes hold {foreign / _GIB:.1f} of its"
            f" {total / _GIB:.0f} GiB"
        )
    return EnvironmentProblem(
        f"GPU out of memory at batch size {batch_size} ({ours / _GIB:.1f} of {total / _GIB:.0f} GiB"
        " are ours): use a GPU with more memory, fewer workers on it (--gpus-per-worker), or a"
        " smaller --batch-size, which is another plan"
    )


def is_device_error(error: BaseException) -> bool:
    """Whether CUDA, and not our code, is at fault."""
    accelerator: type | tuple[()] = getattr(torch, "AcceleratorError", ())
    text = str(error)
    return isinstance(error, accelerator) or "CUDA error" in text or "cuDNN error" in text


def passing(message: str) -> EvalsuiteError:
    """An error that another attempt may not meet."""
    error = EnvironmentProblem(message)
    error.may_pass = True
    return error


def wait_for_memory(
    read: Callable[[], tuple[int, int]], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Before loading: give a process that was killed time to give its GPU memory back.

    Args:
        read: gives (free, total) bytes; `torch.cuda.mem_get_info`.
        sleep: waits for so many seconds.

    Returns as soon as most of the memory is free, or has not changed for three seconds (others use
    it), and after half a minute at the latest.
    """
    waited_s = steady_s = 0.0
    free, total = read()
    while free < _SETTLED_SHARE * total and waited_s < _LONGEST_WAIT_S and steady_s < _STEADY_S:
        sleep(0.5)
        waited_s += 0.5
        before, (free, total) = free, read()
        steady_s = steady_s + 0.5 if free == before else 0.0
