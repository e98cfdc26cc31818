"""A frozen TensorFlow graph (.pb) read without TensorFlow: protobuf's wire format, constants only.

GraphDef 1 = NodeDef; NodeDef 1 = name, 2 = op, 5 = attr (map entry: 1 key, 2 AttrValue);
AttrValue 4 = float, 5 = bool, 8 = TensorProto; TensorProto 1 = dtype, 2 = shape (2 dim: 1 size),
4 = tensor_content (little-endian), 5 = float_val (packed or not).

The file is mapped, and a tensor is a view of it: nothing is allocated because a file says so.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError

MAX_NODES = 20_000
"""The graph has about a thousand."""
_MAX_DIMENSIONS = 8
_MAX_VALUES = 2**28
_DT_FLOAT = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class _Field(NamedTuple):
    """A field of a message: a number when it is a varint, else bytes."""

    number: int
    wire: int
    value: int
    body: memoryview


class _WireError(Exception):
    """The bytes are no message; the text says why."""


@dataclass(frozen=True)
class Node:
    """One node of a graph."""

    name: str
    op: str
    attributes: Mapping[str, memoryview]
    """Encoded AttrValues by their names."""

    def flag(self, key: str) -> bool:
        """A bool attribute; False when absent."""
        found = _all(self.attributes.get(key), 5, _VARINT)
        return bool(found) and found[-1].value != 0

    def number(self, key: str) -> float | None:
        """A float attribute."""
        found = _all(self.attributes.get(key), 4, _FIXED32)
        return float(struct.unpack("<f", found[-1].body)[0]) if found else None

    def tensor(self) -> NDArray[np.float32]:
        """The float32 tensor of a constant, read-only.

        Raises:
            DataError: it is not float32, or its bytes do not fit its shape.
        """
        try:
            encoded = _all(self.attributes.get("value"), 8, _BYTES)
            if not encoded:
                raise _WireError("holds no tensor")
            return _tensor(encoded[-1].body)
        except _WireError as error:
            raise DataError(f"constant {self.name[:100]!r} of the graph {error}") from error


def read_nodes(path: Path) -> Iterator[Node]:
    """The nodes of a GraphDef file, in its order.

    Raises:
        DataError: the file is damaged or no graph.
    """
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise DataError(f"cannot read weights {path}: {error}") from error
    try:
        for count, field in enumerate(_each(view, 1, _BYTES)):
            if count == MAX_NODES:
                raise _WireError(f"it holds more than {MAX_NODES} nodes")
            yield _node(field.body)
    except _WireError as error:
        raise DataError(
            f"weights {path} are no frozen TensorFlow graph, or a damaged one: {error}"
        ) from error


def _node(encoded: memoryview) -> Node:
    name = op = ""
    attributes: dict[str, memoryview] = {}
    for field in _fields(encoded):
        if field.wire != _BYTES:
            continue
        if field.number == 1:
            name = _text(field.body)
        elif field.number == 2:
            op = _text(field.body)
        elif field.number == 5:
            keys, values = _all(field.body, 1, _BYTES), _all(field.body, 2, _BYTES)
            if keys and values:
                attributes[_text(keys[-1].body)] = values[-1].body
    return Node(name, op, attributes)


def _tensor(encoded: memoryview) -> NDArray[np.float32]:
    dtypes = _all(encoded, 1, _VARINT)
    dtype = dtypes[-1].value if dtypes else 0
    if dtype != _DT_FLOAT:
        raise _WireError(f"has dtype {dtype}, not float32 ({_DT_FLOAT})")
    shapes = _all(encoded, 2, _BYTES)
    shape = _shape(shapes[-1].body) if shapes else ()
    count = math.prod(shape)
    if count > _MAX_VALUES:
        raise _WireError(f"has shape {list(shape)}, which is too large")
    contents = _all(encoded, 4, _BYTES)
    stored: memoryview | bytearray = contents[-1].body if contents else memoryview(b"")
    if not len(stored):
        stored = _float_values(encoded)
        if len(stored) == 4:  # a single value stands for all
            return np.broadcast_to(np.frombuffer(stored, "<f4"), shape)
    if len(stored) != 4 * count:
        raise _WireError(f"has shape {list(shape)}, but {len(stored)} bytes of values")
    return np.frombuffer(stored, "<f4").reshape(shape)


def _float_values(encoded: memoryview) -> bytearray:
    """`float_val`: packed, or a field for each value."""
    values = bytearray()
    for field in _fields(encoded):
        if field.number == 5 and field.wire in (_BYTES, _FIXED32):
            values += field.body
    return values


def _shape(encoded: memoryview) -> tuple[int, ...]:
    dimensions = _all(encoded, 2, _BYTES)
    if len(dimensions) > _MAX_DIMENSIONS:
        raise _WireError(f"has {len(dimensions)} dimensions")
    sizes = [_all(dimension.body, 1, _VARINT) for dimension in dimensions]
    shape = tuple(size[-1].value if size else 0 for size in sizes)
    if any(size >= 2**63 for size in shape):
        raise _WireError("has a dimension of unknown size")
    return shape


def _text(encoded: memoryview) -> str:
    return bytes(encoded[:4096]).decode("utf-8", "replace")


def _all(message: memoryview | None, number: int, wire: int) -> list[_Field]:
    """All fields of one number and wire type; of a field that is no list the last one counts."""
    return [] if message is None else list(_each(message, number, wire))


def _each(message: memoryview, number: int, wire: int) -> Iterator[_Field]:
    return (field for field in _fields(message) if (field.number, field.wire) == (number, wire))


def _fields(message: memoryview) -> Iterator[_Field]:
    """The fields of a message; every length is checked against what is there."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _WireError("a field has number 0")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield _Field(number, wire, value, message[:0])
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in _FIXED_WIDTHS:
            length = _FIXED_WIDTHS[wire]
        else:
            raise _WireError(f"a field has wire type {wire}")
        if length > end - at:
            raise _WireError(f"a field claims {length} bytes where {end - at} are left")
        yield _Field(number, wire, 0, message[at : at + length])
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends; at most ten bytes, as protobuf has it."""
    value = 0
    for position, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, at + position + 1
    raise _WireError("a number does not end")
