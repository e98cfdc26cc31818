"""State dicts, facts and leftovers of a torch.save file, read without running anything in it."""

import math
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from evalsuite.config import Scalar
from evalsuite.errors import DataError
from evalsuite.models.checkpoints.averages import average_among, least_values, num_values
from evalsuite.models.checkpoints.families import recognise
from evalsuite.models.checkpoints.grouping import is_average, is_network, is_short, place_of
from evalsuite.models.checkpoints.restricted import (
    DAMAGED,
    Inert,
    RestrictedContent,
    StoredTensor,
    is_tensor,
    read_restricted,
    shape_of,
)

_ARRAYS = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
"""By what numpy rebuilds arrays."""
PickledLayout = Literal["lightning", "state_dict", "named_states"]
"""lightning: a `.ckpt` of Lightning. state_dict: one state dict, alone or under `state_dict`.
named_states: several state dicts under their names, as JiT saves them."""
_LIGHTNING_VERSION = "pytorch-lightning_version"
_CURRENT, _AVERAGED_MAIN = "current_model_state", "state_dict_averaged"
"""Where Lightning's WeightAveraging keeps the raw weights, and how `state_dict`, which holds the
average then, is called here. Source: lightning.pytorch.callbacks.weight_averaging."""


class OtherTensors(NamedTuple):
    """Tensors that are no weights for inference, such as an optimiser's."""

    num_tensors: int
    num_bytes: int


@dataclass(frozen=True)
class Pickled:
    """What a torch.save file holds.

    Attributes:
        layout: how the weights are stored.
        about: scalars at the top level, such as `epoch`; Lightning's version is
            `lightning_version`.
        states: state dicts, memory-mapped; "" is the main one, `state_dict_averaged` one that the
            raw weights stand beside as `current_model_state`, others have their own names.
        other: remaining tensors by their top-level name.
        unread_average: where among these an average of weights seems to be; "" where nowhere.
        foreign: classes and functions that a restricted reading replaced.
    """

    layout: PickledLayout
    about: dict[str, Scalar]
    states: dict[str, dict[str, Tensor]]
    other: dict[str, OtherTensors]
    unread_average: str
    foreign: tuple[str, ...]


def read_pickled(path: Path, *, restricted: bool) -> Pickled:
    """Read a torch.save file, by torch's own `weights_only` or by the restricted reader.

    Raises:
        DataError: it is damaged, would need code to be run, or holds no state dict.
    """
    if restricted:
        tree, foreign = read_restricted(path)
    else:
        tree, foreign = _load_weights_only(path), ()
    return _understood(path, tree, foreign)


def _understood(path: Path, tree: object, foreign: tuple[str, ...]) -> Pickled:
    """What a tree that was read means.

    Raises:
        DataError: it holds no state dict, or one with entries that are no tensors.
    """
    if not isinstance(tree, Mapping):
        raise DataError(f"weights {path} hold no state dict, but {_kind(tree)}")
    layout, states, rest = _sorted_out(tree)
    if not states:
        for name, state in rest.items():
            if isinstance(state, Mapping) and any(map(is_tensor, state.values())):
                _tensors_of(path, state, f"{name}.")  # says which entry is no tensor
        raise DataError(f"weights {path} hold no state dict (top level: {_some(tree)})")
    seen: set[int] = set()
    counts = {name: _count(value, seen) for name, value in rest.items()}
    return Pickled(
        layout,
        _scalars(tree),
        {
            name: _tensors_of(path, state, f"{name}." if name else "")
            for name, state in states.items()
        },
        {name: count for name, count in counts.items() if count.num_tensors},
        average_among(rest, least_values(states.values())),
        foreign,
    )


def _load_weights_only(path: Path) -> object:
    if path.suffix == ".safetensors":  # torch.load would believe the name
        content = read_restricted(path)
        if content.foreign:
            raise _needs_code(path, content)
        return content.tree
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, on how the file was written
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _needs_code(path, read_restricted(path)) from error
    except DAMAGED as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read weights {path}: {reason}; download it again") from error
    for item in _objects_below(tree, set()):
        if isinstance(item, OrderedDict | Tensor):
            vars(item).clear()  # torch lets a pickle set any attribute, over methods too
    return tree


def _needs_code(path: Path, content: RestrictedContent) -> DataError:
    """The refusal of a file that names code; it offers `convert` when that can take the weights."""
    foreign = content.foreign
    try:
        _understood(path, content.tree, foreign)
    except DataError as error:
        return error
    more = f" and {len(foreign) - 6} more" if len(foreign) > 6 else ""
    named = f" ({', '.join(foreign[:6])}{more})" if foreign else ""
    return DataError(
        f"weights {path} hold objects that only their own code could rebuild{named},"
        " and no code of a checkpoint is run:"
        f" `evalsuite convert {path} --output model.safetensors` takes the weights out of it"
    )


class _SortedOut(NamedTuple):
    layout: PickledLayout
    states: dict[str, Mapping[Any, object]]
    rest: dict[str, object]


def _sorted_out(tree: Mapping[Any, object]) -> _SortedOut:
    """Tell state dicts from everything else at the top level."""
    named: dict[str, Mapping[Any, object]] = {
        _text(name): value
        for name, value in tree.items()
        if isinstance(value, Mapping) and _is_state(value)
    }
    main = tree.get("state_dict")
    states: dict[str, Mapping[Any, object]]
    if isinstance(main, Mapping) and main:
        named.pop("state_dict", None)
        beside = _weights_among(named, main)
        states = {_AVERAGED_MAIN if _CURRENT in beside else "": main, **beside}
        lightning = _LIGHTNING_VERSION in tree or {"epoch", "global_step"} <= tree.keys()
        layout: PickledLayout = "lightning" if lightning else "state_dict"
    elif named:
        states, layout = _weights_among(named, {}), "named_states"
    else:
        flat = {name: value for name, value in tree.items() if _is_flat_weight(name, value)}
        states, layout = ({"": flat} if any(map(is_tensor, flat.values())) else {}), "state_dict"
    taken: set[object] = {*states, "state_dict"}
    taken |= set(states.get("", ())) if main is None else set()
    rest = {_text(name): value for name, value in tree.items() if name not in taken}
    return _SortedOut(layout, states, rest)


def _weights_among(
    named: Mapping[str, Mapping[Any, object]], main: Mapping[Any, object]
) -> dict[str, Mapping[Any, object]]:
    """The mappings that are a network's: known by its keys or by what they are called.

    What shares a name with one of these is another copy of it. Others, such as the states of random
    generators or means of losses, are left aside; where nothing tells which, all stay. An average
    may be of a part of a network. One that has none of its names is told in `unread_average`: a
    form that is not read must not look like none, nor statistics like weights.
    """
    named = _without_counters(named, main)
    names = {name: _plain_names(state) for name, state in named.items()}
    averaged = {name for name in named if is_average(name)}
    seeds = {name for name in named if is_network(name) or _is_recognised(named[name])}
    known = _plain_names(main).union(*(names[name] for name in seeds))
    known = known or set().union(*(names[name] for name in averaged))
    tails = _tails(known) if averaged else set()
    kept = {
        name for name in named if names[name] & known or (name in averaged and names[name] <= tails)
    }
    if not main and not seeds and kept == averaged:
        return dict(named)
    return {name: state for name, state in named.items() if name in kept}


def _without_counters(
    named: Mapping[str, Mapping[Any, object]], main: Mapping[Any, object]
) -> Mapping[str, Mapping[Any, object]]:
    """All but what is noted beside weights, such as `ema_state` with a decay, means of losses."""
    recognised = {name for name, state in named.items() if _is_recognised(state)}
    networks = [state for name, state in named.items() if is_network(name) or name in recognised]
    least = least_values([main, *networks])
    sizes = {n: [num_values(v) for v in state.values()] for n, state in named.items()}
    single = {
        name
        for name, values in sizes.items()
        if is_average(name) and (max(values) <= 1 or sum(values) < least)
    } - recognised
    others = {name: state for name, state in named.items() if name not in single}
    if not main and not others:
        return named
    known = _plain_names(main).union(*map(_plain_names, others.values()))
    return {
        name: state
        for name, state in named.items()
        if name not in single or _plain_names(state) & known
    }


def _is_recognised(state: Mapping[Any, object]) -> bool:
    return recognise({place_of(str(k)).name: shape_of(v) for k, v in state.items()}) is not None


def _plain_names(state: Mapping[Any, object]) -> set[str]:
    return {place_of(key).name for key in state if isinstance(key, str)}


def _tails(names: set[str]) -> set[str]:
    """What names are in a part of a network: `blocks.0.w` and `0.w` of `net.blocks.0.w`."""
    parts = [name.split(".") for name in names]
    return {".".join(some[start:]) for some in parts for start in range(1, len(some))}


def _is_state(value: Mapping[Any, object]) -> bool:
    return bool(value) and all(isinstance(k, str) and is_tensor(v) for k, v in value.items())


def _is_flat_weight(name: object, value: object) -> bool:
    """Whether an entry beside tensors is one of the weights, be it a tensor or not.

    A dot stands in the names of a state dict, and not in what a program notes beside it, such as
    `epoch` or `args`. An array may be a weight under any name.
    """
    is_array = isinstance(value, Inert) and value.stands_for in _ARRAYS
    return is_tensor(value) or is_array or (isinstance(name, str) and "." in name)


def _tensors_of(path: Path, state: Mapping[Any, object], prefix: str) -> dict[str, Tensor]:
    tensors = {_text(k): _dense(path, f"{prefix}{_text(k)}", v) for k, v in state.items()}
    if len(tensors) != len(state):
        raise DataError(
            f"weights {path} hold two tensors whose names are one as text, as 5 and '5'"
        )
    return tensors


def _dense(path: Path, key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor | StoredTensor):
        raise DataError(
            f"weights {path}: {key} is no tensor but {_kind(value)}, which is neither loaded nor"
            " left out: where you trust the file, load it with torch, remove that entry and"
            " torch.save it again"
        )
    tensor = value.tensor if isinstance(value, StoredTensor) else value
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise DataError(f"weights {path}: {key} is sparse, quantised or without values")
    num_stored = _num_stored(value)
    if math.prod(tensor.shape) > num_stored:  # numel() may overflow
        raise DataError(
            f"weights {path}: {key} has the shape {tuple(tensor.shape)} and only {num_stored}"
            " stored values: save a contiguous copy of it"
        )
    return tensor.detach()


def _num_stored(value: Tensor | StoredTensor) -> int:
    """Values in the storage that a dense tensor is a view of."""
    if isinstance(value, StoredTensor):
        return value.num_stored
    return value.untyped_storage().nbytes() // value.element_size()


def _scalars(tree: Mapping[Any, object]) -> dict[str, Scalar]:
    """Usual numbers and short texts at the top level."""
    facts: dict[str, Scalar] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not is_short(name):
            continue
        if isinstance(value, int) and not _is_usual(value):
            continue
        if isinstance(value, bool | int | float) or (isinstance(value, str) and is_short(value)):
            facts["lightning_version" if name == _LIGHTNING_VERSION else name] = value
    return facts


def _count(value: object, seen: set[int]) -> OtherTensors:
    sizes = [_num_bytes(tensor) for tensor in _tensors_below(value, seen)]
    return OtherTensors(len(sizes), sum(sizes))


def _num_bytes(value: Tensor | StoredTensor) -> int:
    """The size of a tensor; of one that is larger than its storage, the size of the storage."""
    tensor = value.tensor if isinstance(value, StoredTensor) else value
    num_values = math.prod(tensor.shape)
    if tensor.layout == torch.strided:
        num_values = min(num_values, _num_stored(value))
    return num_values * tensor.element_size()


def _tensors_below(value: object, seen: set[int]) -> Iterator[Tensor | StoredTensor]:
    """Every tensor once; arguments as of `_objects_below`."""
    for item in _objects_below(value, seen):
        if isinstance(item, Tensor | StoredTensor):
            yield item


def _objects_below(value: object, seen: set[int]) -> Iterator[object]:
    """Every tensor and container once; these may be shared, hold themselves and be deep.

    Args:
        value: part of a tree that stays alive.
        seen: ids of what was visited; they are added to.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if not isinstance(item, Tensor | StoredTensor | Mapping | list | tuple) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)


def _kind(value: object) -> str:
    """What something is that should have been a tensor or a mapping of tensors."""
    if isinstance(value, Inert):
        return f"what {value.stands_for} would make (its code is never run)"
    return f"one {type(value).__name__}"


def _some(tree: Mapping[Any, object]) -> str:
    return ", ".join(_text(name) for name in list(tree)[:6]) or "nothing"


def _text(name: object) -> str:
    """A key as text; the type of one whose text could be endless, such as a nested tuple."""
    if isinstance(name, str):
        return name
    is_number = isinstance(name, int) and _is_usual(name)
    return str(name) if is_number else f"<{type(name).__name__}>"


def _is_usual(number: int) -> bool:
    """Whether a whole number may be shown: Python refuses to write very long ones."""
    return number.bit_length() <= 64
