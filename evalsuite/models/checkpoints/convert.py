"""One group of a checkpoint's weights as a safetensors file, streamed, without running code."""

import json
import uuid
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from evalsuite.artifacts.digests import known_sha256
from evalsuite.artifacts.storage import HashingWriter, LocalStorage
from evalsuite.errors import DataError, UsageError
from evalsuite.models.checkpoints.reading import (
    QUANTISED,
    Checkpoint,
    TensorInfo,
    all_finite,
    open_checkpoint,
)

KeptDtype = Literal["stored", "float32"]
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_QUANTISED_DTYPES = ("int8", "uint8")  # wider integers are counters and indices
_ALIGNMENT = 64  # of the first tensor: a line of a processor's cache
_PORTION = 1 << 22  # values that are written at once


class Converted(NamedTuple):
    """A file that was written; `doubts` says why models of ours will refuse it, if they will."""

    path: Path
    sha256: str
    num_tensors: int
    num_bytes: int
    doubts: tuple[str, ...] = ()


def convert(path: Path, group: str, output: Path, dtype: KeptDtype = "stored") -> Converted:
    """Write one group of weights to a new safetensors file; it appears whole or not at all.

    Pickles are read by the restricted reader, so that files with objects of foreign classes can be
    converted; nothing in them is executed. One tensor is in memory at a time.

    Args:
        path: any checkpoint that `open_checkpoint` takes.
        group: a key of its `groups`.
        output: a file that does not exist yet.
        dtype: `float32` writes floating-point tensors so; counters and indices stay integers.

    Raises:
        UsageError: the output exists, its folder does not, or there is no such group.
        DataError: the checkpoint cannot be read, or holds a dtype that cannot be written.
        StorageError: the output cannot be written.
    """
    if output.exists():
        raise _exists(output)
    if not output.absolute().parent.exists():
        raise UsageError(f"--output {output}: its folder does not exist; make it, or name another")
    checkpoint = open_checkpoint(path, restricted=True)
    if group not in checkpoint.groups:
        raise UsageError(f"{path} holds no group {group!r}; known: {', '.join(checkpoint.groups)}")
    infos = {k: _written(k, i, dtype) for k, i in sorted(checkpoint.groups[group].items())}
    header = _header(infos, _metadata(checkpoint, group))
    storage = LocalStorage(output.parent)
    temporary = f".{output.name}.{uuid.uuid4().hex}"
    with storage.create(temporary) as writer:
        writer.write(header)
        not_finite = [
            name
            for name, info in infos.items()
            if not _write_values(writer, checkpoint.tensor(group, name), getattr(torch, info.dtype))
        ]
    if not storage.publish(temporary, output.name):
        raise _exists(output)
    doubts = _doubts(infos, not_finite)
    return Converted(output, writer.sha256, len(infos), writer.num_bytes, doubts)


def _exists(output: Path) -> UsageError:
    return UsageError(f"{output} exists already: remove it or give another --output")


def _doubts(infos: dict[str, TensorInfo], not_finite: list[str]) -> tuple[str, ...]:
    """Clauses about tensors that no network of ours takes, each kind with one example."""
    quantised = [name for name, info in infos.items() if info.dtype in _QUANTISED_DTYPES]
    kinds = (("NaN or infinite values", not_finite), ("integer weights", quantised))
    return tuple(
        f"{what} in {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for what, names in kinds
        if names
    )


def _written(name: str, info: TensorInfo, dtype: KeptDtype) -> TensorInfo:
    """What a tensor becomes in the output."""
    if info.dtype not in _CODES:
        raise DataError(f"{name} is {info.dtype}, which cannot be converted: {QUANTISED}")
    if dtype == "float32" and info.dtype in _QUANTISED_DTYPES:
        raise DataError(f"{name} is {info.dtype} and cannot become float32: {QUANTISED}")
    if dtype == "stored" or "float" not in info.dtype:
        return info
    return TensorInfo("float32", info.shape, 4 * torch.Size(info.shape).numel())


def _metadata(checkpoint: Checkpoint, group: str) -> dict[str, str]:
    """Where the weights came from, for the header."""
    digests = ",".join(known_sha256(file) for file in checkpoint.files)
    facts = {
        "format": "pt",
        "source": checkpoint.path.name,
        "source_sha256": digests,
        "group": group,
    }
    for name in ("epoch", "global_step"):
        if name in checkpoint.about:
            facts[name] = str(checkpoint.about[name])
    return facts


def _header(infos: dict[str, TensorInfo], metadata: dict[str, str]) -> bytes:
    """The beginning of a safetensors file: the length of a JSON text, and the text."""
    entries: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, info in infos.items():
        stop = start + info.num_bytes
        entries[name] = {
            "dtype": _CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_values(writer: HashingWriter, tensor: Tensor, dtype: torch.dtype) -> bool:
    """Write a tensor; False when one of its values is NaN or infinite."""
    flat, is_finite = tensor.reshape(-1), True
    for start in range(0, flat.numel(), _PORTION):
        part = flat[start : start + _PORTION].to(dtype).contiguous()
        is_finite = is_finite and all_finite(part)
        writer.write(part.view(torch.uint8).numpy().tobytes())
    return is_finite
