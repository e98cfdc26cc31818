"""How names in a checkpoint fall into groups of weights: raw, averaged, training only."""

import re
from collections.abc import Iterable
from typing import NamedTuple

TRAINING_ONLY = ("diffusion_trainer", "_repa_projector")
"""First parts of names that no network has at inference: alignment heads of the training."""
AVERAGED_COUNT = "n_averaged"
"""The counter that `torch.optim.swa_utils.AveragedModel` keeps beside its average, `module`."""
AVERAGED = "averaged_model"
"""What weights are called that such a counter shows to be an average, of no decay that is known."""
_RAW = ("denoiser", "core", "model")
_WRAPPERS = ("module.", "_forward_module.", "transformer.", "net.")
_GROUP = re.compile(
    rf"(?P<group>{'|'.join(_RAW)}"
    r"|(?:[A-Za-z0-9]+_)*(?i:ema)[A-Za-z0-9]*(?:_[A-Za-z]+)*(?:[_-]0\.\d+)?)\."
)
_IS_NETWORK = re.compile(
    rf"(?:{'|'.join(_RAW)}|net|network|transformer)(?:_state)?(?:_dict)?", re.IGNORECASE
)
_IS_AVERAGE = re.compile(
    r"(?i:(?<![a-z])(?:ema|shadow|swa(?![a-z])))|(?i:(?<!exp_)averag)|(?<=[a-z])(?:EMA|SWA|Ema)"
    r"|(?i:(?<![a-z])(?<!exp_)(?<!square_)(?<!grad_)avg(?![a-z]))"
)
_IS_MOMENT = re.compile(r"(?:exp|square|grad)_avg|^exp_inf$|^momentum")
_DECAY = re.compile(r"0\.\d+")


class Place(NamedTuple):
    """Where a tensor belongs; `training_only` names what is left aside, "" for weights."""

    group: str
    name: str
    training_only: str = ""


def place_of(key: str) -> Place:
    """Group and name of a key of a state dict.

    `_orig_mod.` of torch.compile and leading `module.`, `_forward_module.`, `transformer.`, `net.`
    are taken off.

    >>> place_of("ema_denoiser._orig_mod.blocks.0.norm1.weight")
    Place(group='ema_denoiser', name='blocks.0.norm1.weight', training_only='')
    """
    key = _unwrapped(key.replace("_orig_mod.", ""))
    first = key.partition(".")[0]
    if first in TRAINING_ONLY:
        return Place("", key, training_only=first)
    if key.rpartition(".")[2] == AVERAGED_COUNT:
        return Place("", key, training_only=AVERAGED_COUNT)
    match = _GROUP.match(key)
    if match is None:
        return Place("", key)
    return Place(match["group"], _unwrapped(key[match.end() :]))


def averaged_prefixes(keys: Iterable[str]) -> tuple[str, ...]:
    """How the keys begin of what stands beside a counter of `AveragedModel`.

    >>> averaged_prefixes(["n_averaged", "module.blocks.0.norm1.weight"])
    ('module.',)
    """
    counters = [key for key in keys if key.rpartition(".")[2] == AVERAGED_COUNT]
    return tuple(f"{key.removesuffix(AVERAGED_COUNT)}module." for key in counters)


def is_average(name: str) -> bool:
    """Whether any program would call an average of weights so: a group, or what a file holds else.

    An optimiser's moments, such as `exp_avg`, are no average of weights.
    """
    return _IS_AVERAGE.search(name) is not None


def is_moment(name: str) -> bool:
    """Whether an optimiser's state calls so what it keeps of a parameter's gradients."""
    return _IS_MOMENT.search(name) is not None


def is_network(name: str) -> bool:
    """Whether a mapping is called as programs call the one that holds their network."""
    return _IS_NETWORK.fullmatch(name) is not None


def is_short(text: str) -> bool:
    """Whether a text may be shown as it is."""
    return len(text) <= 100 and text.isprintable()


def decay_of(group: str) -> float | None:
    """The decay that a group's name states, such as 0.9999 in `ema_0.9999`."""
    found = _DECAY.findall(group) if is_average(group) else []
    return float(found[0]) if len(found) == 1 else None


def _unwrapped(key: str) -> str:
    while any(key.startswith(wrapper) for wrapper in _WRAPPERS):
        key = key.partition(".")[2]
    return key
