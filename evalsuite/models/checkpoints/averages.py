"""Averages of weights in forms that are not read, told from counters and from means of losses."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evalsuite.models.checkpoints.grouping import is_average, is_moment, is_short
from evalsuite.models.checkpoints.restricted import Inert, is_tensor, shape_of

_LEAST_SHARE, _MOST_COUNTED = 0.01, 10_000
"""Of the weights' number of values, and values: what has fewer than either, and none of the names
of weights, is no average. The share alone would be large beside a frozen encoder."""
_SCALARS = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "torch.device"}
"""Objects of unknown classes that hold no weights."""
_PLAIN_MODULES = ("datetime.", "pathlib.")
"""Of whose classes no object holds any."""
_Seen = set[tuple[int, bool]]


def num_values(value: object) -> int:
    """Of a tensor by its shape; 1 of anything else."""
    return math.prod(shape_of(value))


def least_values(networks: Iterable[Mapping[Any, object]]) -> float:
    """How many values an average of one of these has at least."""
    most = max((sum(map(num_values, one.values())) for one in networks), default=0)
    return least_beside(most)


def least_beside(num_weights: int) -> float:
    """How many values an average has at least beside a network of so many."""
    return min(_LEAST_SHARE * num_weights, _MOST_COUNTED)


def average_among(rest: Mapping[str, object], least: float) -> str:
    """Where an average seems to be, by the names above tensors; "" where nowhere.

    Fewer values than `least` in all are counters, decays, means of losses. What is called so and
    only its own code could rebuild counts, whatever it would hold.

    Args:
        rest: all of a tree that is no state dict, by its names at the top level.
        least: from `least_values`.
    """
    sizes: dict[str, float] = {}
    seen: _Seen = set()
    for top, value in rest.items():
        for where, item in _called_averages(top, value, seen):
            found = math.inf if isinstance(item, Inert) else num_values(item)
            sizes[where] = sizes.get(where, 0) + (found if found > 1 else 0)
    return _largest(sizes, least)


def average_aside(aside: Mapping[str, Iterable[tuple[str, tuple[int, ...]]]], least: float) -> str:
    """Where an average seems to be among tensors that are left aside by name; "" where nowhere.

    Args:
        aside: keys and shapes of tensors, by what these are left aside for.
        least: from `least_beside`.
    """
    sizes: dict[str, float] = {}
    for top, shapes in aside.items():
        for key, shape in shapes:
            said = next(filter(is_average, key.split(".")), "")
            found = math.prod(shape)
            if said and found > 1:
                where = f"{_shown(said)} in {_shown(top)}"
                sizes[where] = sizes.get(where, 0) + found
    return _largest(sizes, least)


def _largest(sizes: Mapping[str, float], least: float) -> str:
    total = sum(sizes.values())
    return max(sizes, key=sizes.__getitem__) if total and total >= least else ""


def _called_averages(top: str, value: object, seen: _Seen) -> Iterator[tuple[str, object]]:
    """Each tensor and object of an unknown class below a name that says an average, and that name.

    Args:
        top: the name of `value` at the top level.
        value: part of a tree that stays alive.
        seen: ids of what was visited, and whether below such a name; they are added to.
    """
    of_optimizer = top.startswith("optim")
    waiting: list[tuple[str, object]] = [(_shown(top) if is_average(top) else "", value)]
    while waiting:
        where, item = waiting.pop()
        key = (id(item), bool(where))
        if not isinstance(item, Mapping | list | tuple):
            if where and key not in seen and _may_hold_weights(item):
                seen.add(key)
                yield where, item
            continue
        if key in seen:
            continue
        seen.add(key)
        named = item.items() if isinstance(item, Mapping) else (("", below) for below in item)
        for name, below in named:
            said = name if isinstance(name, str) else ""
            is_mark = not where and is_average(said)
            mark = f"{_shown(said)} in {_shown(top)}" if is_mark else where
            waiting.append(("" if of_optimizer and is_moment(said) else mark, below))


def _may_hold_weights(item: object) -> bool:
    if not isinstance(item, Inert):
        return is_tensor(item)
    return item.stands_for not in _SCALARS and not item.stands_for.startswith(_PLAIN_MODULES)


def _shown(name: str) -> str:
    return name if is_short(name) else f"{name[:60]!r}..."
