"""Computing inside somebody else's process, a training job, and leaving it as it was found."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from evalsuite.pipeline.numerics import prepare_torch

_NODES = (
    *("", "cudnn", "mkldnn"),
    *("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
)
"""Below torch.backends, from the root: what has a float32 precision of its own since torch 2.9, or
"none" for that of what is above it."""


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """What `prepare_torch` promises inside, and nothing of it afterwards, whatever happens.

    Put back are the states of all random generators, torch's threads, default dtype and device,
    gradients, autocast, and the flags of cuDNN and of TensorFloat-32.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_states(device))
        stack.enter_context(_flags())
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.device("cpu"))
        for kind in sorted({"cpu", device.type}):
            stack.enter_context(torch.autocast(kind, enabled=False))
        prepare_torch(device)
        yield


@contextlib.contextmanager
def _random_states(device: torch.device) -> Iterator[None]:
    ours = np.random.get_state()  # noqa: NPY002 - the process may use the global generator
    python = random.getstate()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(ours)  # noqa: NPY002


@contextlib.contextmanager
def _flags() -> Iterator[None]:
    backends = torch.backends
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    chosen = backends.cudnn.benchmark, backends.cudnn.deterministic
    precisions = _Precisions()
    torch.set_default_dtype(torch.float32)
    precisions.make_exact()
    try:
        yield
    finally:
        precisions.put_back()
        backends.cudnn.benchmark, backends.cudnn.deterministic = chosen
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


class _Precisions:
    """How float32 products are computed. torch has two interfaces to it, which must not disagree.

    Where a process has used the newer one, reading the older one may be an error, and only the
    newer one counts.
    """

    def __init__(self) -> None:
        self._matmul = _read_legacy(torch.get_float32_matmul_precision)
        self._cudnn = _read_legacy(lambda: torch.backends.cudnn.allow_tf32)
        known = hasattr(torch.backends, "fp32_precision")
        self._nodes = {name: _node(name).fp32_precision for name in _NODES if known}

    def make_exact(self) -> None:
        """IEEE float32 everywhere, said through both interfaces."""
        for name in self._nodes:
            _node(name).fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False

    def put_back(self) -> None:
        """As they were read; what may have followed what is above it does so again."""
        if self._matmul is not None:
            torch.set_float32_matmul_precision(self._matmul)
        if self._cudnn is not None:
            torch.backends.cudnn.allow_tf32 = self._cudnn
        for name, value in self._nodes.items():
            node = _node(name)
            node.fp32_precision = "none"
            if node.fp32_precision != value:
                node.fp32_precision = value


def _read_legacy(read: Any) -> Any:  # noqa: ANN401 - a flag or a word
    try:
        return read()
    except RuntimeError:  # both interfaces were used
        return None


def _node(name: str) -> Any:  # noqa: ANN401 - modules that torch builds at import
    place: Any = torch.backends
    for part in filter(None, name.split(".")):
        place = getattr(place, part)
    return place
