"""A reader of torch checkpoints that rebuilds tensors and containers and can run nothing else.

Every class and function that a pickle names is replaced: the few that rebuild tensors by our own,
all others by `Inert`, which accepts what is done to it and does nothing. Nothing is imported or
called on a pickle's behalf, so that the weights of a file with foreign objects can be saved.
"""

import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeGuard

import torch
from torch import Tensor

from evalsuite.errors import DataError

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
_UNTYPED = (
    *(torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.float8_e4m3fn),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
)
"""Types that torch keeps in untyped storages and names beside them."""
_ELEMENTS = {**_STORAGES, **{str(dtype): dtype for dtype in (*_STORAGES.values(), *_UNTYPED)}}
_PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter")
"""Classes of tensors that are known, whatever attributes they have."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip entry: magic, lengths of name and extra field
DAMAGED = (
    *(pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError, LookupError),
    *(ArithmeticError, RecursionError, MemoryError, RuntimeError, ImportError, AssertionError),
    *(OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
"""What our reader and torch's raise when a file is damaged or malicious."""


class RestrictedContent(NamedTuple):
    """What the restricted reader got out of a file.

    Attributes:
        tree: dicts, lists, tuples, scalars and `StoredTensor`; `Inert` for the rest.
        foreign: full names of the classes and functions that were replaced, sorted.
    """

    tree: object
    foreign: tuple[str, ...]


class Inert:
    """Stands for an object or a function of a class that is not rebuilt; `stands_for` names it."""

    __slots__ = ()
    stands_for: ClassVar[str] = "a class that is not known"

    def __new__(cls, *_args: object, **_named: object) -> "Inert":
        """Take any arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: object, **_named: object) -> None:
        pass

    def __call__(self, *_args: object, **_named: object) -> "Inert":
        """What a call of an unknown function gives."""
        return type(self)()

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        """Ignore an item of an unknown list."""

    def extend(self, _items: object) -> None:
        """Ignore items of an unknown list."""

    def add(self, _item: object) -> None:
        """Ignore an item of an unknown set."""


class _Mapping(dict[Any, Any]):
    """An OrderedDict whose attributes (torch's `_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, _state: object) -> None:
        pass


class _Function:
    """A function of ours that a pickle may call, and not change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a pickle tries to change a function")


class _ElementType:
    """The element type of a storage or a tensor."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a pickle tries to change a storage type")


class _Storage:
    """Memory-mapped values of one storage, flat."""

    __slots__ = ("values",)

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a pickle tries to change a storage")


class StoredTensor:
    """A memory-mapped tensor, out of the pickle's reach, and the size of its storage in values."""

    __slots__ = ("num_stored", "tensor")

    def __init__(self, tensor: Tensor, num_stored: int) -> None:
        self.tensor = tensor
        self.num_stored = num_stored

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a pickle tries to change a tensor")


def is_tensor(value: object) -> bool:
    """Whether a part of a tree is a tensor, of torch's reading or of ours."""
    return isinstance(value, Tensor | StoredTensor)


def shape_of(value: object) -> tuple[int, ...]:
    """The shape of a tensor of either reading; () of anything else."""
    tensor = value.tensor if isinstance(value, StoredTensor) else value
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else ()


def read_restricted(path: Path) -> RestrictedContent:
    """All tensors of a torch.save file, without executing anything in it.

    Raises:
        DataError: the file is damaged, or not of torch.save's zip format.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            records = _Records(path, archive, raw)
            with archive.open(records.pickle_entry) as data:
                unpickler = _RestrictedUnpickler(data, records)
                tree = unpickler.load()
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot read weights {path}, even restricted: {reason}") from error
    return RestrictedContent(tree, tuple(sorted(unpickler.foreign)))


class _Records:
    """The storages in a torch.save archive, mapped and never copied."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, raw: Any) -> None:  # noqa: ANN401
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} entries are named data.pkl")
        self.pickle_entry = pickles[0]
        self._folder = self.pickle_entry.removesuffix("data.pkl")
        order = entries.get(f"{self._folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise ValueError("the tensors are big-endian")
        self._entries = entries
        self._raw = raw
        num_bytes = path.stat().st_size
        self._bytes = torch.from_file(str(path), shared=False, size=num_bytes, dtype=torch.uint8)

    def values(self, key: str, dtype: torch.dtype, num_values: int) -> Tensor:
        """The first `num_values` of a storage."""
        entry = self._entries.get(f"{self._folder}data/{key}")
        num_bytes = num_values * dtype.itemsize
        if entry is None:
            raise ValueError(f"storage {key} is missing")
        if entry.compress_type != zipfile.ZIP_STORED or not 0 <= num_bytes <= entry.file_size:
            raise ValueError(f"storage {key} has {entry.file_size} bytes, not {num_bytes}")
        start = self._start_of(entry)
        if start + num_bytes > len(self._bytes):
            raise ValueError(f"storage {key} reaches behind the end of the file")
        return _viewed(self._bytes[start : start + num_bytes], dtype)

    def _start_of(self, entry: zipfile.ZipInfo) -> int:
        self._raw.seek(entry.header_offset)
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(self._raw.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise ValueError("a local header of the archive is damaged")
        return int(entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)


def _viewed(content: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as values; a copy where they do not lie as these have to."""
    is_aligned = content.storage_offset() % dtype.itemsize == 0
    return (content if is_aligned else content.clone()).view(dtype)


def _is_unknown(kind: object) -> TypeGuard[type[Inert]]:
    """Whether a class that a pickle names is none of ours."""
    return isinstance(kind, type) and issubclass(kind, Inert)


class _RestrictedUnpickler(pickle.Unpickler):
    """Resolves no name; see the module's docstring."""

    def __init__(self, data: Any, records: _Records) -> None:  # noqa: ANN401 - a binary file
        super().__init__(data)
        self.foreign: set[str] = set()
        self._inert: dict[str, type[Inert]] = {}
        self._records = records

    def find_class(self, module_name: str, global_name: str) -> Any:  # noqa: ANN401 - a stand-in
        """Our stand-in for a name, never the thing itself."""
        full_name = f"{module_name}.{global_name}"
        if full_name in _STAND_INS:
            return _STAND_INS[full_name]
        if full_name in _ELEMENTS:
            return _ElementType(_ELEMENTS[full_name])
        if full_name not in _PLAIN_TENSORS:
            self.foreign.add(full_name)
        if full_name not in self._inert:
            members = {"__slots__": (), "stands_for": full_name}
            self._inert[full_name] = type("Inert", (Inert,), members)
        return self._inert[full_name]

    def persistent_load(self, pid: Any) -> _Storage | Inert:  # noqa: ANN401 - any
        """The storage that a tensor refers to; of an unknown type, what makes the tensor inert."""
        match pid:
            case ("storage", _ElementType() as kind, str() as key, _, int() as num_values):
                return _Storage(self._records.values(key, kind.dtype, num_values))
            case ("storage", kind, str(), _, int()) if _is_unknown(kind):
                return kind()
        raise pickle.UnpicklingError("a reference to a storage is malformed or of an unknown type")


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *_rest: object
) -> StoredTensor | Inert:
    """A strided view of a storage, with every bound checked."""
    if isinstance(storage, Inert):
        return storage
    match storage, offset, size, stride:
        case (_Storage() as held, int() as first, tuple() as shape, tuple() as steps):
            numbers = (first, *shape, *steps)
            if len(shape) != len(steps) or not all(type(n) is int and n >= 0 for n in numbers):
                raise pickle.UnpicklingError("a tensor has an impossible size or stride")
            last = first + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
            if 0 not in shape and last >= held.values.numel():
                raise pickle.UnpicklingError("a tensor reaches behind its storage")
            start = held.values.storage_offset() + (0 if 0 in shape else first)
            view = held.values.as_strided(shape, steps, start)
            return StoredTensor(view, held.values.numel())
    raise pickle.UnpicklingError("a tensor is malformed")


def _rebuild_untyped(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    _requires_grad: object,
    _hooks: object,
    dtype: object,
    *_rest: object,
) -> StoredTensor | Inert:
    """A tensor of a type that its storage does not state."""
    if _is_unknown(dtype):
        return dtype()
    if not isinstance(storage, _Storage) or not isinstance(dtype, _ElementType):
        raise pickle.UnpicklingError("a tensor is malformed")
    content, num_bytes = storage.values.view(torch.uint8), dtype.dtype.itemsize
    whole = content[: content.numel() // num_bytes * num_bytes]
    return _rebuild_tensor(_Storage(_viewed(whole, dtype.dtype)), offset, size, stride)


def _rebuild_of_class(function: object, kind: object, arguments: object, *_state: object) -> object:
    """A tensor whose attributes are dropped; one of an unknown class is not what its values say."""
    if _is_unknown(function):
        return function()
    if not (isinstance(function, _Function) and _is_unknown(kind) and isinstance(arguments, tuple)):
        raise pickle.UnpicklingError("a tensor is malformed")
    return function(*arguments) if kind.stands_for in _PLAIN_TENSORS else kind()


def _rebuild_parameter(data: object, *_rest: object) -> object:
    return data


_STAND_INS: dict[str, object] = {
    "collections.OrderedDict": _Mapping,
    "torch.Size": _Function(tuple),
    "torch._utils._rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": _Function(_rebuild_untyped),
    "torch._tensor._rebuild_from_type": _Function(_rebuild_of_class),
    "torch._tensor._rebuild_from_type_v2": _Function(_rebuild_of_class),
    "torch._utils._rebuild_parameter": _Function(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": _Function(_rebuild_parameter),
}
