"""Weights into networks: a checkpoint's, strictly and without a copy, or random ones."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evalsuite.errors import DataError, DivergedError, UsageError
from evalsuite.models.checkpoints.families import FAMILIES, Presets, Shapes, describe, recognise
from evalsuite.models.checkpoints.reading import QUANTISED, Checkpoint, all_finite

_SHOWN = 4  # faults of one kind that a line names
_NARROW = (torch.float16, torch.bfloat16)
_NORM_SPREAD = 0.1
_BIAS_SPREAD = 0.02


class Fit(NamedTuple):
    """For each of a network's tensors its name in a checkpoint, and the dtype that it gets."""

    names: dict[str, str]
    dtypes: dict[str, torch.dtype]


def load_network(
    network: nn.Module,
    checkpoint: Checkpoint,
    group: str,
    family: str,
    origin: str,
    presets: Presets | None = None,
) -> None:
    """Give a network one group of a checkpoint's weights, when they are exactly the network's.

    Weights that are stored in the network's dtype, at a multiple of 64 bytes, are used where they
    lie in the memory-mapped file (torch.save writes all so); others are read one by one, and
    bfloat16 and float16 become float32. Nothing is changed when the weights do not fit.

    A network that is built on the meta device must compute its tables in `forward`: a buffer that
    is not part of its state dict has no value there, and is refused.

    Args:
        network: built on any device, at best on `meta`.
        checkpoint: an opened checkpoint, whose file must stay as it is while the network lives.
        group: a key of `checkpoint.groups`.
        family: of the network; a known one may have keys in another spelling.
        origin: the name of the weights in error lines.
        presets: known networks, to say what a file that does not fit really is.

    Raises:
        DataError: keys are missing, left over, or of another shape or dtype.
        DivergedError: a value is NaN or infinite.
        UsageError: there is no such group.
        ValueError: a buffer of the network is left without values.
    """
    fit = check_fit(network, checkpoint, group, family, origin, presets)
    ready = {
        key: checkpoint.aligned(group, name, fit.dtypes[key]) for key, name in fit.names.items()
    }
    _assign(network, ready, origin)


def check_fit(
    network: nn.Module,
    checkpoint: Checkpoint,
    group: str,
    family: str,
    origin: str,
    presets: Presets | None = None,
) -> Fit:
    """How a group of a checkpoint becomes a network's weights; none of their values is read.

    Arguments and errors are those of `load_network`, but for values, which are not looked at.
    """
    if group not in checkpoint.groups:
        known = ", ".join(name or "(no prefix)" for name in checkpoint.groups)
        raise UsageError(f"weights {origin} hold no group {group or '(no prefix)'}; known: {known}")
    infos = checkpoint.groups[group]
    faults = misfits(network, checkpoint, group, family)
    if faults:
        _check_strays(network, checkpoint, group, family, origin)
        found = recognise({name: info.shape for name, info in infos.items()})
        guess = f"; they look like {describe(found, presets or {})}" if found else ""
        raise DataError(f"weights {origin} do not fit the model: {'; '.join(faults)}{guess}")
    names = {_spelling(family)(name): name for name in infos}
    wanted = {key: tensor.dtype for key, tensor in network.state_dict().items()}
    for key, name in names.items():
        fault = _dtype_fault(key, infos[name].dtype, wanted[key])
        if fault:
            raise DataError(f"weights {origin}: {fault}")
    return Fit(names, wanted)


def _check_strays(
    network: nn.Module, checkpoint: Checkpoint, group: str, family: str, origin: str
) -> None:
    """Raise DataError where a group fits but for what stands beside it, which `convert` leaves."""
    alone = replace(checkpoint, groups={group: checkpoint.groups[group]})
    if group and not misfits(network, alone, group, family):
        strays = sorted(checkpoint.groups.get("", {}))
        raise DataError(
            f"weights {origin}: {group} fits the model, and beside it stand unexpected"
            f" {_first_few(strays)}: `evalsuite convert {checkpoint.path} --ema {group} --output"
            " model.safetensors` takes it alone"
        )


def misfits(network: nn.Module, checkpoint: Checkpoint, group: str, family: str) -> list[str]:
    """What keeps a group of a checkpoint from being a network's weights, by keys and shapes.

    Arguments are those of `load_network`; dtypes are the matter of `dtype_misfits`.
    """
    infos, to_upstream = checkpoint.groups[group], _spelling(family)
    given = {to_upstream(name): info.shape for name, info in infos.items()}
    strays = checkpoint.groups.get("", {}) if group else {}
    twice = [] if len(given) == len(infos) else ["one tensor is there under two spellings"]
    shapes = {**{name: i.shape for name, i in strays.items()}, **given}
    return twice + faults_of(_shapes_of(network), shapes)


def dtype_misfits(network: nn.Module, checkpoint: Checkpoint, group: str, family: str) -> list[str]:
    """For tensors of a group that cannot become the network's exactly: which dtype, and what to do.

    The keys must fit.
    """
    wanted = {key: tensor.dtype for key, tensor in network.state_dict().items()}
    infos = {_spelling(family)(n): info for n, info in checkpoint.groups[group].items()}
    faults = [_dtype_fault(key, info.dtype, wanted[key]) for key, info in infos.items()]
    return [fault for fault in faults if fault]


def _spelling(family: str) -> Callable[[str], str]:
    """The authors' spelling of a key of the family."""
    layout = FAMILIES.get(family)
    return layout.to_upstream if layout else str


def faults_of(wanted: Shapes, given: Shapes) -> list[str]:
    """What keeps a state dict from fitting, one clause for each kind of fault."""
    unlike = [
        f"{key} is {given[key]}, not {wanted[key]}"
        for key in sorted(wanted.keys() & given.keys())
        if wanted[key] != given[key]
    ]
    kinds = (
        ("missing ", sorted(wanted.keys() - given.keys())),
        ("unexpected ", sorted(given.keys() - wanted.keys())),
        ("", unlike),
    )
    return [f"{kind}{_first_few(names)}" for kind, names in kinds if names]


def random_state(network: nn.Module, seed: int) -> None:
    """Fill a network with weights that depend on nothing but `seed`, names and shapes; float32.

    Matrices and kernels are N(0, 1 / fan-in), scales of norms are near 1, biases near 0: signals
    keep their size, so that a trial behaves like a real model in everything but its images.
    """
    state = {
        key: _random_tensor(key, tuple(tensor.shape), seed)
        for key, tensor in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    _check_complete(network)


def _random_tensor(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    name = f"{seed}:{key}:{'x'.join(map(str, shape))}".encode()
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(number)
    values = torch.empty(shape, dtype=torch.float32)
    if len(shape) > 1:
        fan_in = math.prod(shape[1:]) if shape[0] > 1 else shape[-1]
        return values.normal_(0.0, fan_in**-0.5, generator=generator)
    if key.rpartition(".")[2] == "weight":
        return values.normal_(1.0, _NORM_SPREAD, generator=generator)
    return values.normal_(0.0, _BIAS_SPREAD, generator=generator)


def _shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _first_few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _dtype_fault(key: str, stored: str, wanted: torch.dtype) -> str:
    """Why a stored tensor cannot become the network's exactly; "" when it can."""
    dtype: torch.dtype = getattr(torch, stored)
    if dtype == wanted or (dtype in _NARROW and wanted == torch.float32):
        return ""
    fault = f"tensor {key} is {stored}; float32, bfloat16 and float16 are loaded"
    if stored == "float64":
        return f"{fault}: `evalsuite convert --dtype float32` rounds it"
    return f"{fault}: {QUANTISED}"


def _assign(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    for key, tensor in state.items():
        if not all_finite(tensor):
            raise DivergedError(f"weights {origin}: tensor {key} holds NaN or infinite values")
    network.load_state_dict(dict(state), assign=True)
    _check_complete(network)


def _check_complete(network: nn.Module) -> None:
    named: Iterable[tuple[str, Tensor]] = (*network.named_parameters(), *network.named_buffers())
    empty = [name for name, tensor in named if tensor.is_meta]
    if empty:
        raise ValueError(f"{empty[0]} is not in the state dict: compute it in forward")
