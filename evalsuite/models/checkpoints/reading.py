"""Open a checkpoint of any layout as named groups of memory-mapped tensors; nothing is executed."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evalsuite.artifacts.shard_index import read_json, read_shard_index
from evalsuite.config import Scalar
from evalsuite.errors import DataError
from evalsuite.models.checkpoints.averages import average_aside, least_beside
from evalsuite.models.checkpoints.containers import (
    INDEX_SUFFIX,
    container_of,
    locate_weights,
)
from evalsuite.models.checkpoints.grouping import (
    AVERAGED,
    averaged_prefixes,
    is_average,
    is_short,
    place_of,
)
from evalsuite.models.checkpoints.pickled import OtherTensors, PickledLayout, read_pickled
from evalsuite.models.mapped_pages import release_file_pages

Layout = PickledLayout | Literal["safetensors", "safetensors_sharded"]
QUANTISED = (
    "such weights are quantised, and without their scales no others follow from them: take the"
    " file that they were made from"
)
_ALIGNMENT = 64  # bytes, of torch's memory on a CPU
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class TensorInfo(NamedTuple):
    """A stored tensor without its values; `dtype` is torch's name, such as `float32`."""

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


_Aside = dict[str, list[tuple[str, TensorInfo]]]
"""Keys and tensors by what they are left aside for."""


class _Entry(NamedTuple):
    """A stored tensor: mapped where it lies in the file, or read into memory of its own."""

    info: TensorInfo
    load: Callable[[], Tensor]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file or folder holds; values stay on the disk until they are used.

    Attributes:
        path: as it was given.
        layout: how the weights are stored.
        about: what the file says of itself, such as `epoch`, `global_step`, `lightning_version`.
        groups: for each group of weights ("" when keys have no prefix) its tensors by name.
        other: tensors left aside, by their top-level name.
        unread_average: where among these an average of weights seems to be; "" where nowhere.
        files: the files that hold the tensors; several when the checkpoint is sharded.
        foreign: classes and functions that a restricted reading replaced, by full name.
    """

    path: Path
    layout: Layout
    about: dict[str, Scalar]
    groups: dict[str, dict[str, TensorInfo]]
    other: dict[str, OtherTensors]
    files: tuple[Path, ...]
    unread_average: str = ""
    foreign: tuple[str, ...] = ()
    _entries: dict[str, dict[str, _Entry]] = field(default_factory=dict, repr=False)

    def tensors(self, group: str) -> dict[str, Tensor]:
        """The tensors of a group, memory-mapped, under their names without the prefix.

        Raises:
            KeyError: there is no such group.
        """
        return {name: entry.load() for name, entry in self._entries[group].items()}

    def tensor(self, group: str, name: str) -> Tensor:
        """One tensor of a group, memory-mapped."""
        return self._entries[group][name].load()

    def aligned(self, group: str, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor of a group in `dtype`, at an address that is a multiple of 64.

        It is memory-mapped where it lies so in the file, row by row. Elsewhere it is read into
        memory of its own: address and strides decide last bits of matrix products on a CPU, and the
        same weights must give the same bits from every container.
        """
        entry = self._entries[group][name]
        mapped = entry.load()
        if mapped.dtype == dtype and is_aligned(mapped):
            return mapped
        ready = entry.read().to(dtype)
        release_file_pages(mapped)
        return ready


def open_checkpoint(path: Path, *, restricted: bool = False) -> Checkpoint:
    """Open a weights file, or a diffusers folder, by its content.

    Args:
        path: a torch checkpoint or a safetensors file under any name, the index of a sharded one,
            a diffusers folder, or the `transformer` folder of one.
        restricted: read pickles with our own reader, which takes files with foreign classes too.

    Raises:
        DataError: it is missing, damaged, of an unknown format, would need code to be run, or
            holds no weights.
    """
    if path.is_dir():
        return _open_folder(path, restricted=restricted)
    if path.name.endswith(INDEX_SUFFIX):
        return _open_shards(path, path)
    if container_of(path) == "safetensors":
        about = _safetensors_about(path)
        return _assembled(path, "safetensors", about, {"": _safetensors_entries(path)})
    return _from_pickle(path, restricted=restricted)


def is_aligned(tensor: Tensor) -> bool:
    """Whether a tensor lies as torch's own memory does."""
    return tensor.data_ptr() % _ALIGNMENT == 0


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite: extremes show both, and need no temporary copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped, under their own names.

    Raises:
        DataError: the file is missing, truncated or of another format.
    """
    if container_of(path) != "safetensors":
        raise DataError(f"weights {path} are not in the safetensors format")
    return {key: entry.load() for key, entry in _safetensors_entries(path).items()}


def _open_folder(folder: Path, *, restricted: bool) -> Checkpoint:
    place = locate_weights(folder)
    if place.weights.name.endswith(INDEX_SUFFIX):
        opened = _open_shards(folder, place.weights)
    else:
        opened = open_checkpoint(place.weights, restricted=restricted)
    about = dict(opened.about)
    if place.config is not None:
        name = read_json(place.config).get("_class_name")
        about |= {"class_name": name} if isinstance(name, str) else {}
    metadata = folder / "conversion_metadata.json"
    if metadata.is_file():
        prefix = read_json(metadata).get("source_prefix")
        about |= {"source_prefix": prefix} if isinstance(prefix, str) else {}
    return replace(opened, path=folder, about=about)


def _open_shards(path: Path, index: Path) -> Checkpoint:
    files = read_shard_index(index)
    shards = {shard: _safetensors_entries(shard) for shard in sorted(set(files.values()))}
    for key, shard in files.items():
        if key not in shards[shard]:
            raise DataError(f"{index} says that {key} is in {shard.name}, which lacks it")
    for shard, entries in shards.items():
        unknown = sorted(key for key in entries if files.get(key) != shard)
        if unknown:
            raise DataError(f"{shard} holds {unknown[0]}, which {index.name} does not place there")
    entries = {key: shards[shard][key] for key, shard in files.items()}
    opened = _assembled(path, "safetensors_sharded", {}, {"": entries})
    return replace(opened, files=tuple(shards))


def _safetensors_entries(path: Path) -> dict[str, _Entry]:
    if container_of(path) != "safetensors":
        raise DataError(f"weights {path} are not in the safetensors format")
    with _explained(path):
        opened: Any = safe_open(path, framework="pt")
        starts = _starts_of(path)
        return {key: _safetensors_entry(path, opened, key, start) for key, start in starts.items()}


def _safetensors_about(path: Path) -> dict[str, Scalar]:
    """Texts in the header, such as those that `evalsuite convert` leaves."""
    with _explained(path):
        opened: Any = safe_open(path, framework="pt")
        metadata: dict[str, str] = opened.metadata() or {}
    return {k: v for k, v in metadata.items() if is_short(k) and is_short(v) and k != "format"}


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"cannot read weights {path} as safetensors ({error}): it is cut short or damaged;"
            " download it again, or save it again"
        ) from error


def _safetensors_entry(path: Path, opened: Any, key: str, start: int) -> _Entry:  # noqa: ANN401
    part = opened.get_slice(key)
    code: str = part.get_dtype()
    shape = tuple(part.get_shape())
    if code not in _DTYPES:
        raise DataError(f"weights {path}: tensor {key} is {code}, which is not read: {QUANTISED}")
    dtype: torch.dtype = getattr(torch, _DTYPES[code])
    num_bytes = torch.Size(shape).numel() * dtype.itemsize

    def read() -> Tensor:
        values = torch.empty(num_bytes, dtype=torch.uint8)
        with path.open("rb") as raw:
            raw.seek(start)
            if raw.readinto(values.numpy().data) != num_bytes:
                raise DataError(f"weights {path} became shorter while they were read")
        return values.view(dtype).view(shape)

    return _Entry(TensorInfo(_DTYPES[code], shape, num_bytes), lambda: _mapped(opened, key), read)


def _mapped(opened: Any, key: str) -> Tensor:  # noqa: ANN401 - a class without types
    tensor: Tensor = opened.get_tensor(key)
    return tensor


def _starts_of(path: Path) -> dict[str, int]:
    """For each tensor of a safetensors file that the library has accepted, its first byte."""
    with path.open("rb") as raw:
        header_bytes = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(header_bytes))
    return {
        key: 8 + header_bytes + entry["data_offsets"][0]
        for key, entry in header.items()
        if key != "__metadata__"
    }


def _from_pickle(path: Path, *, restricted: bool) -> Checkpoint:
    content = read_pickled(path, restricted=restricted)
    states = {
        name: {key: _tensor_entry(tensor) for key, tensor in state.items()}
        for name, state in content.states.items()
    }
    opened = _assembled(path, content.layout, content.about, states)
    return replace(
        opened,
        other={**opened.other, **content.other},
        unread_average=content.unread_average or opened.unread_average,
        foreign=content.foreign,
    )


def _tensor_entry(tensor: Tensor) -> _Entry:
    name = str(tensor.dtype).removeprefix("torch.")
    num_bytes = tensor.numel() * tensor.element_size()
    info = TensorInfo(name, tuple(tensor.shape), num_bytes)

    def load() -> Tensor:
        # the strides of dimensions of size 1 may still be channels_last, and convolutions heed them
        return tensor.contiguous().view(-1).view(tensor.shape)

    return _Entry(info, load, lambda: load().clone())


def _assembled(
    path: Path, layout: Layout, about: dict[str, Scalar], states: Mapping[str, Mapping[str, _Entry]]
) -> Checkpoint:
    """Sort the keys of all state dicts into groups."""
    entries: dict[str, dict[str, _Entry]] = {}
    aside: _Aside = {}
    for state_name, state in states.items():
        averaged = averaged_prefixes(state)
        for key, entry in state.items():
            place = place_of(key)
            if place.training_only:
                aside.setdefault(place.training_only, []).append((key, entry.info))
                continue
            name = ".".join(filter(None, (state_name, place.group)))
            if key.startswith(averaged) and not is_average(name):
                name = f"{name}.{AVERAGED}" if name else AVERAGED
            group = entries.setdefault(name, {})
            if place.name in group:
                raise DataError(f"weights {path} hold {place.name} twice; the second is {key}")
            group[place.name] = entry
    if not entries:
        raise DataError(f"weights {path} hold no tensors that a network could use")
    groups = {name: {key: e.info for key, e in group.items()} for name, group in entries.items()}
    return Checkpoint(
        path,
        layout,
        about,
        groups,
        {name: _counted(tensors) for name, tensors in aside.items()},
        (path,),
        _unread_average(aside, groups),
        _entries=entries,
    )


def _counted(tensors: list[tuple[str, TensorInfo]]) -> OtherTensors:
    return OtherTensors(len(tensors), sum(info.num_bytes for _, info in tensors))


def _unread_average(aside: _Aside, groups: Mapping[str, Mapping[str, TensorInfo]]) -> str:
    """Where among tensors that are left aside by name an average seems to be; "" where nowhere."""
    most = max(sum(math.prod(info.shape) for info in group.values()) for group in groups.values())
    shapes = {top: [(key, info.shape) for key, info in infos] for top, infos in aside.items()}
    return average_aside(shapes, least_beside(most))
