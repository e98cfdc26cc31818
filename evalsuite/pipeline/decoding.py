"""Reading samples ahead of the network: decoding in processes of their own, in order, bounded.

Legend: N images, H height, W width, C channels.
"""

import contextlib
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TypeVar

import numpy as np

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.samples import SampleSet
from evalsuite.errors import EvalsuiteError, WorkerError
from evalsuite.pipeline.channel import Channel
from evalsuite.pipeline.source import sums_checked

T = TypeVar("T")
Range = tuple[int, int]
_DEPTH = 2
"""Portions that wait here, besides the one that each process holds."""


def decoded(
    samples: SampleSet, start: int, stop: int, portion: int, processes: int
) -> Generator[Images]:
    """Images start..stop-1 in portions of exactly `portion`, but for the last; read ahead.

    The bytes do not depend on `processes`. With two or more, and images that cost computing, each
    process decodes every n-th portion and holds one; with fewer, or where bytes only have to be
    read, a thread reads ahead. Portions travel through pipes: on two cores they take 0.6 GB/s
    where pickles take 0.14 and shared memory 1.1, and leave nothing behind when a process is
    killed. Close the generator, or let it end, to end the processes; they end by themselves when
    this process does, however it does.

    Args:
        samples: what to read; it is pickled when processes share the work.
        start: first image.
        stop: one more than the last image.
        portion: images in a yielded array uint8 [portion,H,W,3].
        processes: how many decode.

    Raises:
        EvalsuiteError: whatever reading meets, as if it were read here; at the end, that checksums
            which only reading from end to end can compare do not match.
        WorkerError: a process was killed.
    """
    with Decoders(samples, processes) as decoders, decoders.checked(start, stop):
        yield from decoders.read(start, stop, portion)


class Decoders:
    """Reads ranges of one sample set, one after the other, with processes that outlive a range."""

    def __init__(self, samples: SampleSet, processes: int) -> None:
        """Prepare to read `samples`; see `decoded`. Processes start when they are first needed."""
        self._samples = samples
        self._count = processes if samples.encoded and samples.random_access else 1
        self._workers: list[tuple[SpawnProcess, Connection]] = []

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, start: int, stop: int, portion: int) -> Generator[Images]:
        """Images start..stop-1 in portions; as `decoded`. End or close it before the next read."""
        ranges = [(low, min(low + portion, stop)) for low in range(start, stop, portion)]
        count = min(self._count, len(ranges))
        if count > 1:
            yield from prefetched(self._from_processes(ranges, count), _DEPTH)
        else:
            yield from prefetched(regrouped(self._samples.read(start, stop), portion), _DEPTH)

    def checked(self, start: int, stop: int) -> AbstractContextManager[None]:
        """Around reading start..stop-1: see that checksums of the files are compared.

        Raises:
            CorruptionError: when it ends, a file is damaged.
        """
        in_one_go = self._count < 2 and (start, stop) == (0, self._samples.num_images)
        return contextlib.nullcontext() if in_one_go else sums_checked(self._samples)

    def close(self) -> None:
        """End the processes."""
        workers, self._workers = self._workers, []
        for process, pipe in workers:
            pipe.close()
            process.terminate()
        for process, _ in workers:
            process.join()
            process.close()

    def _from_processes(self, ranges: Sequence[Range], count: int) -> Generator[Images]:
        """Portions in order: process k decodes ranges k, k + count, ..., and a full pipe stops it.

        Each is asked for two at a time, so that it need not wait for the next question. Whatever
        ends this early ends the processes, which have answers in hand that nobody will read.
        """
        whole = False
        try:
            while len(self._workers) < count:
                self._workers.append(_started(self._samples))
            for number in range(min(2 * count, len(ranges))):
                _ask(self._workers[number % count][1], ranges[number])
            for number, (low, high) in enumerate(ranges):
                process, pipe = self._workers[number % count]
                images = _received(process, pipe, low, high)
                if number + 2 * count < len(ranges):
                    _ask(pipe, ranges[number + 2 * count])
                yield images
            whole = True
        finally:
            if not whole:
                self.close()


def prefetched(source: Generator[T] | Iterator[T], depth: int) -> Generator[T]:
    """Items of `source`, which a thread takes from it ahead of need, at most `depth` of them."""
    channel: Channel[T] = Channel(depth)
    thread = threading.Thread(target=_fill, args=(channel, source), daemon=True)
    thread.start()
    try:
        yield from channel
    finally:
        channel.abandon()
        thread.join()


def regrouped(portions: Iterable[Images], size: int) -> Iterator[Images]:
    """The same images in portions of exactly `size`, but for the last."""
    held: list[Images] = []
    count = 0
    for images in portions:
        held.append(images)
        count += len(images)
        if count >= size:
            joined = np.concatenate(held) if len(held) > 1 else held[0]
            whole = count // size * size
            for low in range(0, whole, size):
                yield joined[low : low + size]
            held, count = ([joined[whole:]] if count > whole else []), count - whole
    if held:
        yield np.concatenate(held)


def _fill(channel: Channel[T], source: Iterator[T]) -> None:
    """Pass everything on to the channel, the end and a fault too, and close the source."""
    with channel.feeding():
        try:
            for item in source:
                channel.put(item)
        finally:
            if isinstance(source, Generator):
                source.close()


def _started(samples: SampleSet) -> tuple[SpawnProcess, Connection]:
    """A process and the end of its pipe; Ctrl-C, which reaches every process, is for us alone."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=True)
    process = context.Process(target=_decode, args=(samples, theirs), daemon=True)
    resource_tracker.ensure_running()  # the first start of a process would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return process, ours


def _ask(pipe: Connection, asked: Range) -> None:
    """Send a range; that a process is gone is noticed where its answer is missing."""
    with contextlib.suppress(ConnectionError):
        pipe.send(asked)


def _received(process: SpawnProcess, pipe: Connection, low: int, high: int) -> Images:
    try:
        header = pipe.recv()
        images = np.empty(() if isinstance(header, Exception) else header, np.uint8)
        if not isinstance(header, Exception):
            pipe.recv_bytes_into(images.reshape(-1).data)
    except (EOFError, OSError) as error:
        process.join(timeout=5)
        raise WorkerError(
            f"the process that decodes images {low}..{high - 1} ended with exit code"
            f" {process.exitcode} (negative: a signal; -9 is often too little memory)"
        ) from error
    if isinstance(header, Exception):
        raise header
    return images


def _decode(samples: SampleSet, pipe: Connection) -> None:
    """The body of a process: the ranges that it is asked for, until nobody asks any more."""
    with contextlib.suppress(ConnectionError, EOFError):
        while True:
            start, stop = pipe.recv()
            try:
                pieces = list(samples.read(start, stop))
                images = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
            except Exception as error:  # noqa: BLE001 - the process boundary: the parent raises it
                if not isinstance(error, EvalsuiteError):
                    error.add_note("".join(traceback.format_exception(error)))
                pipe.send(error)
                return
            pipe.send(images.shape)
            pipe.send_bytes(images.reshape(-1).data)
