"""Messages between evalsuite and the TensorFlow process: a JSON header, then raw arrays.

A frame is 4 bytes of magic, the header's length (uint32, little-endian), the header as JSON and the
arrays' bytes in C order, one after the other. Nothing is pickled, every size is checked before
memory is taken for it, and numpy is all that is needed.
"""

import json
import math
import struct
from collections.abc import Mapping
from io import BufferedIOBase
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = b"EVTF"
MAX_HEADER_BYTES = 1 << 16
MAX_ARRAY_BYTES = 1 << 32
"""Of all arrays of a message: 64 images of 4096 x 4096, or 500,000 rows of 2,048 features."""
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("uint8", "float32")}
_PREFIX = struct.Struct("<4sI")

Field = bool | int | float | str | None


class Message(NamedTuple):
    """What is asked or answered: its kind, plain fields and named arrays."""

    kind: str
    fields: Mapping[str, Field] = {}
    arrays: Mapping[str, NDArray[Any]] = {}


class ProtocolError(Exception):
    """The bytes that were read are no message, or one that is too large."""


def send(stream: IO[bytes], message: Message) -> None:
    """Write a message whole.

    Raises:
        ValueError: an array has another dtype than uint8 and float32, or the message is too large;
            nothing was written.
        OSError: the other process is gone.
    """
    described = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        for name, array in message.arrays.items()
    ]
    _check(described)
    content = {"kind": message.kind, "fields": dict(message.fields), "arrays": described}
    header = json.dumps(content).encode()
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(header)} bytes is too long")
    stream.write(_PREFIX.pack(MAGIC, len(header)) + header)
    for array in message.arrays.values():
        in_order = np.ascontiguousarray(array, dtype=_DTYPES[array.dtype.name])
        stream.write(in_order.reshape(-1).data)
    stream.flush()


def receive(stream: BufferedIOBase) -> Message | None:
    """Read a message whole; None when the stream ended before one began.

    Raises:
        ProtocolError: the bytes are no message, one that is too large, or they end inside of it.
    """
    prefix = stream.read(_PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise ProtocolError("the stream ended inside a message")
    magic, length = _PREFIX.unpack(prefix)
    if magic != MAGIC or length > MAX_HEADER_BYTES:
        raise ProtocolError("the bytes are no message")
    header = np.empty(length, dtype=np.uint8)
    _fill(stream, header)
    try:
        content = json.loads(header.tobytes())
        described = _check(content["arrays"])
        kind, fields = str(content["kind"]), dict(content["fields"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"the header is no message: {error}") from error
    arrays = {}
    for name, dtype, shape in described:
        arrays[name] = np.empty(shape, dtype=dtype)
        _fill(stream, arrays[name])
    return Message(kind, fields, arrays)


def _check(described: Any) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:  # noqa: ANN401 - JSON
    """Names, dtypes and shapes of arrays that may be sent."""
    checked = []
    total = 0
    for entry in described:
        name, shape = str(entry["name"]), tuple(entry["shape"])
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"array {name!r} is {entry['dtype']}: uint8 and float32 only")
        if not all(isinstance(length, int) and length >= 0 for length in shape):
            raise ValueError(f"array {name!r} has no shape but {shape}")
        dtype = _DTYPES[entry["dtype"]]
        total += math.prod(shape) * dtype.itemsize
        checked.append((name, dtype, shape))
    if total > MAX_ARRAY_BYTES:
        raise ValueError(f"{total} bytes of arrays in a message, {MAX_ARRAY_BYTES} at most")
    return checked


def _fill(stream: BufferedIOBase, array: NDArray[Any]) -> None:
    """Read exactly the bytes of an array into it."""
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = stream.readinto(left)
        if not count:
            raise ProtocolError("the stream ended inside a message")
        left = left[count:]
