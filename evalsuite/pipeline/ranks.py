"""The ranks of a training job, as a scorer needs them: agreeing, gathering rows, sharing bytes.

Legend: N rows of all ranks, W values of a row.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from evalsuite import errors
from evalsuite.errors import EnvironmentProblem, EvalsuiteError, UsageError, WorkerError

T = TypeVar("T")
_PIECE = 256
"""Rows that each rank sends at a time."""


class Ranks:
    """The processes of a group, which talk over a group of their own: gloo, with a time limit.

    Features lie in main memory, so nothing of this takes memory or streams of a GPU; and a rank
    that ends, or does not come in time, is an error on the others instead of a wait without end.
    All ranks call the same methods in the same order. Without torch.distributed there is one rank,
    and nothing is sent.
    """

    def __init__(self, process_group: Any = None, timeout_s: float = 1800.0) -> None:  # noqa: ANN401
        """Join the ranks of `process_group` (the default one when None); all of them must.

        Raises:
            UsageError: this process is not one of them.
            EnvironmentProblem: this torch has no gloo, or ranks did not come.
        """
        self.rank, self.count = 0, 1
        self._group: Any = None
        self._timeout = timedelta(seconds=timeout_s)
        if not (dist.is_available() and dist.is_initialized()):
            return
        if dist.get_rank(process_group) < 0:
            raise UsageError("this process is not in the process_group that was given")
        self._members = sorted(dist.get_process_group_ranks(process_group or dist.group.WORLD))
        self.rank, self.count = self._members.index(dist.get_rank()), len(self._members)
        if self.count == 1:
            return
        if not dist.is_gloo_available():
            raise EnvironmentProblem("this torch has no gloo, by which ranks exchange features")
        with self._explained():
            self._group = dist.new_group(
                self._members, self._timeout, "gloo", use_local_synchronization=True
            )

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that has the reference and computes metrics."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until every rank is here.

        Raises:
            WorkerError: one did not come in time, or ended.
        """
        if self._group is not None:
            with self._explained():
                dist.monitored_barrier(self._group, self._timeout, wait_all_ranks=True)

    def together(self, step: Callable[[], T]) -> T:
        """Do a step on every rank; an error of one is an error of all.

        Raises:
            EvalsuiteError: what the first rank in trouble met.
        """
        if self._group is None:
            return step()
        done: list[T] = []
        error: EvalsuiteError | None = None
        try:
            done.append(step())
        except EvalsuiteError as met:
            error = met
        failed = [rank for rank, (code,) in enumerate(self.numbers([error is not None])) if code]
        if failed:
            raise _decoded(self._shared(_encoded(error), failed[0])) from error
        return done[0]

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """Bytes that the first rank makes; an error that it meets is an error of all.

        Raises:
            EvalsuiteError: what it met.
        """
        if self._group is None:
            return make()
        made: bytes = b""
        error: EvalsuiteError | None = None
        if self.is_first:
            try:
                made = make()
            except EvalsuiteError as met:
                error = met
        ((failed,), *_) = self.numbers([error is not None])
        content = self._shared(_encoded(error) if failed else made, 0)
        if failed:
            raise _decoded(content) from error
        return content

    def numbers(self, values: Sequence[int]) -> list[list[int]]:
        """The whole numbers of every rank, by rank."""
        ours = torch.tensor([int(value) for value in values], dtype=torch.int64)
        if self._group is None:
            return [ours.tolist()]
        gathered = [torch.empty_like(ours) for _ in range(self.count)]
        with self._explained():
            dist.all_gather(gathered, ours, self._group)
        return [tensor.tolist() for tensor in gathered]

    def gather(self, rows_NW: NDArray[Any], counts: Sequence[int]) -> NDArray[Any] | None:
        """Rows of all ranks in the order of ranks, on the first one; None on the others.

        Beside the result it takes memory for a few hundred rows of each rank.

        Args:
            rows_NW: this rank's rows, as many as `counts` says.
            counts: rows of every rank.
        """
        if self._group is None:
            return rows_NW
        width = rows_NW.shape[1]
        whole = np.empty((sum(counts), width), rows_NW.dtype) if self.is_first else None
        firsts = np.cumsum([0, *counts])
        for low in range(0, max(counts), _PIECE):
            sizes = [min(max(count - low, 0), _PIECE) for count in counts]
            for rank, piece in enumerate(self._pieces(rows_NW[low : low + _PIECE], max(sizes))):
                if whole is not None:
                    at = firsts[rank] + low
                    whole[at : at + sizes[rank]] = piece[: sizes[rank]]
        return whole

    def _pieces(self, rows_NW: NDArray[Any], size: int) -> list[NDArray[Any]]:
        """A piece of `size` rows from every rank, what it lacks being zero."""
        padded = np.zeros((size, rows_NW.shape[1]), rows_NW.dtype)
        padded[: len(rows_NW)] = rows_NW
        ours = torch.from_numpy(padded)
        into = [torch.empty_like(ours) for _ in range(self.count)] if self.is_first else None
        with self._explained():
            dist.gather(ours, into, self._members[0], self._group)
        return [tensor.numpy() for tensor in into or []]

    def _shared(self, content: bytes, source: int) -> bytes:
        """The bytes of the rank `source`."""
        size = self.numbers([len(content)])[source][0]
        buffer = np.zeros(size, np.uint8)
        if self.rank == source:
            buffer[:] = np.frombuffer(content, np.uint8)
        tensor = torch.from_numpy(buffer)
        with self._explained():
            dist.broadcast(tensor, self._members[source], self._group)
        return buffer.tobytes()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What torch says when ranks are missing, as one line."""
        try:
            yield
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            seconds = self._timeout.total_seconds()
            raise WorkerError(
                f"evalsuite.Scorer on rank {self.rank} waited in vain for other ranks: did one fail"
                f" or take longer than timeout_s, {seconds:g} s? {first}"
            ) from error


def _encoded(error: EvalsuiteError | None) -> bytes:
    return json.dumps([type(error).__name__, str(error)]).encode()


def _decoded(content: bytes) -> EvalsuiteError:
    """The error of another rank."""
    name, text = json.loads(content)
    kind = getattr(errors, name, EvalsuiteError)
    found = kind(text)
    assert isinstance(found, EvalsuiteError)
    return found
