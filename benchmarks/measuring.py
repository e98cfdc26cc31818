"""Seconds and memory of several ways to the same images, which alternate in one process."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Run = Callable[[], Tensor]


class Way(NamedTuple):
    """One way of sampling a batch; `idle_bytes` is what the other way's network holds meanwhile."""

    name: str
    run: Run
    nfe: int
    idle_bytes: int


@dataclass(frozen=True)
class Figure:
    """What was measured of one way at one batch size.

    Attributes:
        nfe: network evaluations per image, a guided pair is 2.
        seconds: of each round, for the whole batch.
        images_per_second: median of the rounds.
        seconds_per_evaluation: of one image, median of the rounds.
        flop_per_second: counted FLOP of the evaluations over the median seconds.
        peak_bytes: on a GPU of the way's own weights and all that it allocates beside them; on a
            CPU of the whole process, without the other network's weights.
        speed_ratio: seconds of `plain` over seconds of this, median of the rounds.
        rms_difference: of the images from those of `plain`, over the spread of these.
    """

    way: str
    nfe: int
    seconds: tuple[float, ...]
    images_per_second: float
    seconds_per_evaluation: float
    flop_per_second: float
    peak_bytes: int
    speed_ratio: float
    rms_difference: float


def used_bytes(device: torch.device) -> int:
    """Memory that this process holds on the device now."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


class Trial(NamedTuple):
    """The images of one run and the most memory that the process held on the device meanwhile."""

    x_BCHW: Tensor
    peak_bytes: int


def try_once(device: torch.device, run: Run) -> Trial:
    """Run with the peak of memory reset before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return Trial(run(), torch.cuda.max_memory_allocated(device))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    return Trial(run(), _status_bytes("VmHWM"))


def seconds_of(device: torch.device, run: Run) -> float:
    """Seconds of one run: by a GPU's own events; on a CPU those that this process computed.

    On one thread these are the seconds of a machine without other users, whoever else is there.
    """
    if device.type != "cuda":
        began = time.process_time()
        run()
        return time.process_time() - began
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) / 1000


@torch.inference_mode()
def measure(
    ways: Sequence[Way], batch_size: int, flop: int, rounds: int, device: torch.device
) -> list[Figure]:
    """Run every way once for its images and its memory, then alternate them `rounds` times."""
    ways[0].run()  # warms up what is made once in a process
    trials = [try_once(device, way.run) for way in ways]
    rounds_s = [[seconds_of(device, way.run) for way in ways] for _ in range(rounds)]
    plain_BCHW = trials[0].x_BCHW
    spread = _rms(plain_BCHW - plain_BCHW.mean())
    return [
        _figure(
            way,
            batch_size,
            flop,
            [(times[0], times[i]) for times in rounds_s],
            trials[i].peak_bytes - way.idle_bytes,
            _rms(trials[i].x_BCHW - plain_BCHW) / spread,
        )
        for i, way in enumerate(ways)
    ]


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _figure(
    way: Way,
    batch_size: int,
    flop: int,
    rounds_s: Sequence[tuple[float, float]],
    peak_bytes: int,
    rms_difference: float,
) -> Figure:
    """A figure from pairs (seconds of `plain`, seconds of this way)."""
    seconds = statistics.median(own for _, own in rounds_s)
    evaluations = batch_size * way.nfe
    return Figure(
        way=way.name,
        nfe=way.nfe,
        seconds=tuple(round(own, 6) for _, own in rounds_s),
        images_per_second=batch_size / seconds,
        seconds_per_evaluation=seconds / evaluations,
        flop_per_second=flop * evaluations / seconds,
        peak_bytes=peak_bytes,
        speed_ratio=statistics.median(plain / own for plain, own in rounds_s),
        rms_difference=rms_difference,
    )
