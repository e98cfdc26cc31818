"""State dicts, facts and leftovers of a torch.save file, read without running anything in it."""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from evalsuite.config import Scalar
from evalsuite.errors import DataError
from evalsuite.models.checkpoints.restricted import StoredTensor, read_restricted

PickledLayout = Literal["lightning", "state_dict", "named_states"]
"""lightning: a `.ckpt` of Lightning. state_dict: one state dict, alone or under `state_dict`.
named_states: several state dicts under their names, as JiT saves them."""
_LIGHTNING_VERSION = "pytorch-lightning_version"


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
        states: state dicts, memory-mapped; "" is the main one, others have their own names.
        other: remaining tensors by their top-level name.
        foreign: classes and functions that a restricted reading replaced.
    """

    layout: PickledLayout
    about: dict[str, Scalar]
    states: dict[str, dict[str, Tensor]]
    other: dict[str, OtherTensors]
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
    if not isinstance(tree, Mapping):
        raise DataError(f"weights {path} hold no state dict, but one {type(tree).__name__}")
    layout, states, rest = _sorted_out(tree)
    if not states:
        raise DataError(f"weights {path} hold no state dict (top level: {_some(tree)})")
    counts = {name: _count(value) for name, value in rest.items()}
    return Pickled(
        layout,
        _scalars(tree),
        {name: _tensors_of(path, state) for name, state in states.items()},
        {name: count for name, count in counts.items() if count.num_tensors},
        foreign,
    )


def is_short(text: str) -> bool:
    """Whether a text may be shown as it is."""
    return len(text) <= 100 and text.isprintable()


def _load_weights_only(path: Path) -> object:
    if path.suffix == ".safetensors":  # torch.load would believe the name
        tree, foreign = read_restricted(path)
        if foreign:
            raise _needs_code(path, foreign)
        return tree
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _needs_code(path, read_restricted(path).foreign) from error
    except (RuntimeError, ValueError, EOFError, OSError, LookupError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read weights {path}: {reason}; download it again") from error


def _needs_code(path: Path, foreign: tuple[str, ...]) -> DataError:
    more = f" and {len(foreign) - 6} more" if len(foreign) > 6 else ""
    return DataError(
        f"weights {path} hold objects that only their own code could rebuild"
        f" ({', '.join(foreign[:6])}{more}), and no code of a checkpoint is run:"
        f" `evalsuite convert {path} --output model.safetensors` takes the weights out of it"
    )


class _SortedOut(NamedTuple):
    layout: PickledLayout
    states: dict[str, Mapping[Any, object]]
    rest: dict[str, object]


def _sorted_out(tree: Mapping[Any, object]) -> _SortedOut:
    """Tell state dicts from everything else at the top level."""
    named: dict[str, Mapping[Any, object]] = {
        str(name): value
        for name, value in tree.items()
        if isinstance(value, Mapping) and _is_state(value)
    }
    main = tree.get("state_dict")
    states: dict[str, Mapping[Any, object]]
    if isinstance(main, Mapping) and main:
        named.pop("state_dict", None)
        states = {"": main, **named}
        lightning = _LIGHTNING_VERSION in tree or {"epoch", "global_step"} <= tree.keys()
        layout: PickledLayout = "lightning" if lightning else "state_dict"
    elif named:
        states, layout = named, "named_states"
    else:
        flat = {name: value for name, value in tree.items() if _is_tensor(value)}
        states, layout = ({"": flat} if flat else {}), "state_dict"
    taken: set[object] = {*states, "state_dict"}
    taken |= set(states.get("", ())) if main is None else set()
    rest = {str(name): value for name, value in tree.items() if name not in taken}
    return _SortedOut(layout, states, rest)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor | StoredTensor)


def _is_state(value: Mapping[Any, object]) -> bool:
    return bool(value) and all(isinstance(k, str) and _is_tensor(v) for k, v in value.items())


def _tensors_of(path: Path, state: Mapping[Any, object]) -> dict[str, Tensor]:
    return {str(key): _dense(path, str(key), value) for key, value in state.items()}


def _dense(path: Path, key: str, value: object) -> Tensor:
    tensor = value.tensor if isinstance(value, StoredTensor) else value
    if not isinstance(tensor, Tensor):
        raise DataError(f"weights {path}: {key} is no tensor but one {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise DataError(f"weights {path}: {key} is sparse, quantised or without values")
    return tensor.detach()


def _scalars(tree: Mapping[Any, object]) -> dict[str, Scalar]:
    """Numbers and short texts at the top level."""
    facts: dict[str, Scalar] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not is_short(name):
            continue
        if isinstance(value, bool | int | float) or (isinstance(value, str) and is_short(value)):
            facts["lightning_version" if name == _LIGHTNING_VERSION else name] = value
    return facts


def _count(value: object) -> OtherTensors:
    tensors = list(_tensors_below(value))
    return OtherTensors(len(tensors), sum(t.numel() * t.element_size() for t in tensors))


def _tensors_below(value: object, depth: int = 0) -> Iterator[Tensor]:
    if depth > 32:  # a pickle may hold itself
        return
    if isinstance(value, StoredTensor):
        yield value.tensor
    elif isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_below(item, depth + 1)


def _some(tree: Mapping[Any, object]) -> str:
    return ", ".join(str(name) for name in list(tree)[:6]) or "nothing"
