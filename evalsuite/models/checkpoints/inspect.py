"""What is in a checkpoint, as plain data for `evalsuite inspect`."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from evalsuite.config import Scalar
from evalsuite.models.checkpoints.families import (
    NearestPresets,
    Network,
    Presets,
    nearest_presets,
    recognise,
)
from evalsuite.models.checkpoints.grouping import decay_of, is_average
from evalsuite.models.checkpoints.pickled import OtherTensors
from evalsuite.models.checkpoints.reading import Checkpoint, TensorInfo, open_checkpoint
from evalsuite.models.checkpoints.state import dtype_misfits, misfits
from evalsuite.models.registry import family_named


@dataclass(frozen=True)
class GroupSummary:
    """One set of weights.

    Attributes:
        name: its prefix in the file; "" when keys have none.
        is_ema: whether the name says that it is an average.
        decay: the average's decay, where the name states it.
        dtypes: the number of tensors of each dtype.
        family: what the keys look like; None when no known family has them.
        network: sizes that follow from the shapes.
        note: how it differs from the family's released networks; "" when it does not.
        presets: presets that it fits or agrees with in all sizes, or the one in most sizes.
        presets_exact: whether it fits them: every key, shape and dtype.
        faults: why it does not fit the first of `presets`, with which it agrees in all sizes.
    """

    name: str
    is_ema: bool
    decay: float | None
    num_tensors: int
    num_parameters: int
    num_bytes: int
    dtypes: dict[str, int]
    family: str | None
    network: dict[str, Scalar]
    note: str
    presets: tuple[str, ...]
    presets_exact: bool
    faults: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointSummary:
    """What a checkpoint holds.

    Attributes:
        num_bytes: of all its files.
        about: epoch, step and versions, where the file says them.
        other: tensors and bytes by name that are no weights for inference.
        has_optimizer: whether an optimiser's state is among them.
        foreign: classes and functions that a pickle names and that are never loaded; a file with
            any has to be converted before use.
    """

    path: str
    layout: str
    num_bytes: int
    about: dict[str, Scalar]
    groups: tuple[GroupSummary, ...]
    other: dict[str, OtherTensors]
    has_optimizer: bool
    foreign: tuple[str, ...]


def inspect(path: Path, presets: Presets | None = None) -> CheckpointSummary:
    """Say what a checkpoint holds; no tensor's values are read and nothing is executed.

    Args:
        path: anything that `open_checkpoint` takes.
        presets: known networks, to name the nearest.

    Raises:
        DataError: the checkpoint cannot be read.
    """
    checkpoint = open_checkpoint(path, restricted=True)
    return CheckpointSummary(
        path=str(path),
        layout=checkpoint.layout,
        num_bytes=sum(file.stat().st_size for file in checkpoint.files),
        about=checkpoint.about,
        groups=tuple(_summary(checkpoint, name, presets or {}) for name in checkpoint.groups),
        other=checkpoint.other,
        has_optimizer=any(name.startswith("optim") for name in checkpoint.other),
        foreign=checkpoint.foreign,
    )


def _summary(checkpoint: Checkpoint, name: str, presets: Presets) -> GroupSummary:
    infos = checkpoint.groups[name]
    found = recognise({key: info.shape for key, info in infos.items()})
    nearest = nearest_presets(found, presets) if found else NearestPresets((), exact=False)
    fits = _fits(checkpoint, name, nearest, presets)
    return GroupSummary(
        name=name,
        is_ema=is_average(name),
        decay=decay_of(name),
        num_tensors=len(infos),
        num_parameters=sum(_num_values(info) for info in infos.values()),
        num_bytes=sum(info.num_bytes for info in infos.values()),
        dtypes=dict(Counter(info.dtype for info in infos.values())),
        family=found.family if found else None,
        network=found.network if found else {},
        note=found.note if found else "",
        presets=fits.names,
        presets_exact=fits.exact,
        faults=fits.faults,
    )


class _Fits(NamedTuple):
    """Presets that a group can be loaded as; else the nearest, and why it cannot."""

    names: tuple[str, ...]
    exact: bool
    faults: tuple[str, ...] = ()


def _fits(checkpoint: Checkpoint, group: str, nearest: NearestPresets, presets: Presets) -> _Fits:
    faults = {name: _faults(checkpoint, group, *presets[name]) for name in nearest.names}
    fitting = tuple(name for name, found in faults.items() if not found)
    if fitting and nearest.exact:
        return _Fits(fitting, exact=True)
    return _Fits(nearest.names, exact=False, faults=next(iter(faults.values()), ()))


def _faults(checkpoint: Checkpoint, group: str, family: str, network: Network) -> tuple[str, ...]:
    """What loading a group as a preset would refuse; values are not looked at."""
    with torch.device("meta"):
        module = family_named(family).build(network)
    faults = misfits(module, checkpoint, group, family)
    if faults:
        return tuple(faults)
    dtypes = dtype_misfits(module, checkpoint, group, family)
    return (*dtypes[:1], *([f"and {len(dtypes) - 1} more tensors"] if dtypes[1:] else []))


def _num_values(info: TensorInfo) -> int:
    return math.prod(info.shape)
