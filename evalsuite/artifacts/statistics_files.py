"""Stored statistics in other people's files: NPZ of ADM, clean-fid, JiT and MAR; pickles of EDM.

A pickle is read by stand-ins for the few names that a dictionary of arrays needs. Nothing is
imported or called on its behalf, and any other name is refused.
Legend: D feature width.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import UNREADABLE
from evalsuite.artifacts.samples import read_npz_array
from evalsuite.config.base import MOST_ASYMMETRY
from evalsuite.errors import DataError

Array = NDArray[np.float64]

_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError, LookupError),
    *(ArithmeticError, RecursionError, MemoryError, UnicodeError, OSError),
)
"""What the pickle machine raises over bytes that are not a pickle, or a malicious one."""


@dataclass(frozen=True)
class StoredMoments:
    """Mean and covariance as they stand in a file, float64."""

    mean_D: Array
    cov_DD: Array
    count: int | None
    """Images behind them; None when the file does not say."""

    @property
    def sha256(self) -> str:
        """Of mean and covariance as little-endian float64."""
        digest = hashlib.sha256(np.ascontiguousarray(self.mean_D, "<f8").tobytes())
        digest.update(np.ascontiguousarray(self.cov_DD, "<f8").tobytes())
        return digest.hexdigest()


def read_moments_npz(path: Path, mean: str, cov: str, count: int | None) -> StoredMoments | None:
    """Moments under two names of an NPZ; None when it has neither.

    Raises:
        DataError: one of the two is missing, or they are no mean and covariance.
    """
    mu, sigma = read_npz_array(path, mean), read_npz_array(path, cov)
    if mu is None and sigma is None:
        return None
    if mu is None or sigma is None:
        raise DataError(f"reference {path} has one of {mean} and {cov}, but needs both")
    return checked_moments(mu, sigma, f"reference {path}: {mean}", cov, count)


def checked_moments(
    mu: NDArray[Any], sigma: NDArray[Any], where: str, cov: str, count: int | None
) -> StoredMoments:
    """Widen to float64 what can be the mean [D] and the covariance [D,D] of something.

    Raises:
        DataError: shapes or dtypes do not fit, NaN, an asymmetric matrix, a negative variance.
    """
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise DataError(f"{where} {mu.shape} and {cov} {sigma.shape} do not fit")
    for array in (mu, sigma):
        if array.dtype.kind != "f" or array.dtype.itemsize not in {4, 8}:
            raise DataError(
                f"{where} ({mu.dtype}) and {cov} ({sigma.dtype}) do not fit: statistics are"
                " float32 or float64"
            )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError(f"{where} or {cov} holds NaN or infinite values")
    cov_DD = sigma.astype(np.float64)
    largest = float(np.abs(cov_DD).max())
    asymmetry = float(np.abs(cov_DD - cov_DD.T).max())
    if asymmetry > MOST_ASYMMETRY * largest:
        raise DataError(
            f"{where}: {cov} is not symmetric (differs by {asymmetry:.3g}, largest {largest:.3g}):"
            " it is no covariance"
        )
    if float(np.diagonal(cov_DD).min()) < 0:
        raise DataError(f"{where}: {cov} has a negative variance: it is no covariance")
    return StoredMoments(mu.astype(np.float64), cov_DD, count)


def read_moments_pickle(path: Path, count: int | None = None) -> dict[str, StoredMoments]:
    """The statistics in a pickle by their part: `fid` and `fd_dinov2` in EDM2's.

    A pickle that holds one pair of mu and sigma without a part gives it as `fid`.

    Raises:
        DataError: not such a pickle, or one that names anything but arrays.
    """
    tree = _unpickled(path)
    if not isinstance(tree, dict):
        raise DataError(f"{path} holds no dictionary of statistics")
    parts = {"fid": tree} if {"mu", "sigma"} <= tree.keys() else tree
    found = {}
    for name, pair in parts.items():
        if isinstance(name, str) and isinstance(pair, dict) and {"mu", "sigma"} <= pair.keys():
            mu, sigma = (_array_of(pair[key]) for key in ("mu", "sigma"))
            if mu is None or sigma is None:
                raise DataError(f"{path}: {name} has a mu or sigma that is no array")
            where = f"{path}: {name}/mu"
            found[name] = checked_moments(mu, sigma, where, f"{name}/sigma", count)
    if not found:
        raise DataError(f"{path} holds no mu and sigma")
    return found


def _unpickled(path: Path) -> object:
    """The tree of a pickle, with `_StoredArray` for arrays.

    Raises:
        DataError: see `read_moments_pickle`.
    """
    try:
        with path.open("rb") as raw:
            return _Reader(raw).load()
    except _ForeignNameError as error:
        raise DataError(
            f"{path} names {error}, which statistics do not need: only numbers, texts and numpy"
            " arrays in dictionaries and lists are read, and nothing of it was run"
        ) from error
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as a pickle of statistics: {reason}") from error


class _ForeignNameError(pickle.UnpicklingError):
    """A pickle names something that is not read."""


class _Sealed:
    """A stand-in that a pickle may not change."""

    __slots__ = ()

    def __setstate__(self, _state: object) -> None:
        raise pickle.UnpicklingError("it tries to change what reads it")


class _Function(_Sealed):
    """A function of ours that a pickle may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


class _Dtype:
    """A dtype by its code; the byte order comes with its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_rest: object) -> None:
        if not isinstance(code, str):
            raise pickle.UnpicklingError("a dtype has no code")
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, *_):
                self.order = order
            case _:
                raise pickle.UnpicklingError("a dtype is malformed")

    def numpy(self) -> np.dtype[Any]:
        """The dtype, which is one of numbers."""
        found = np.dtype(self.code.lstrip("<>|=")).newbyteorder(self.order)  # type: ignore[arg-type]
        if found.kind not in "fiub" or found.shape:
            raise pickle.UnpicklingError(f"an array has the dtype {self.code}, not one of numbers")
        return found


class _StoredArray:
    """An array as it is being rebuilt."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any] | None = None) -> None:
        self.values = values

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple() as shape, _Dtype() as dtype, bool() | int() as fortran, data):
                self.values = _rebuilt(data, dtype, shape, "F" if fortran else "C")
            case _:
                raise pickle.UnpicklingError("an array is malformed, or holds objects")


def _rebuilt(data: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
    """The array of some bytes; numpy checks that they are as many as the shape says."""
    if not (
        isinstance(data, bytes | bytearray)
        and isinstance(dtype, _Dtype)
        and isinstance(shape, tuple)
        and all(type(n) is int and n >= 0 for n in shape)
        and order in ("C", "F")
    ):
        raise pickle.UnpicklingError("an array is malformed, or holds objects")
    flat = np.frombuffer(data, dtype.numpy())
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_arguments: object) -> _StoredArray:
    return _StoredArray()


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _StoredArray:
    return _StoredArray(_rebuilt(data, dtype, shape, order))


def _scalar(dtype: object, data: object) -> object:
    return _rebuilt(data, dtype, (), "C").item()


def _encoded(text: object, encoding: object) -> bytes:
    """How protocol 2 holds bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes are malformed")
    return text.encode("latin1")


def _dtype(code: object, *rest: object) -> _Dtype:
    return _Dtype(code, *rest)


_STAND_INS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Sealed(),
    ("numpy", "dtype"): _Function(_dtype),
    ("_codecs", "encode"): _Function(_encoded),
    **{
        (f"numpy.{core}.{module}", name): _Function(call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Reader(pickle.Unpickler):
    """Resolves no name; see the module's docstring."""

    def find_class(self, module_name: str, global_name: str) -> Any:  # noqa: ANN401 - a stand-in
        """Our stand-in for a name, never the thing itself."""
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise _ForeignNameError(f"{module_name}.{global_name}")
        return stand_in


def _array_of(value: object) -> NDArray[Any] | None:
    return value.values if isinstance(value, _StoredArray) else None


def read_names(path: Path) -> set[str]:
    """Names of the arrays in an NPZ.

    Raises:
        DataError: it is none.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return set(archive.files)
    except UNREADABLE as error:
        raise DataError(f"reference {path} is not a readable NPZ: {error}") from error


def named_arrays(parts: Iterable[tuple[str, StoredMoments]]) -> dict[str, Array]:
    """Arrays of statistics by part, as they are kept in an NPZ: `fid_mu`, `fid_sigma`."""
    return {
        f"{name}_{key}": array
        for name, moments in parts
        for key, array in (("mu", moments.mean_D), ("sigma", moments.cov_DD))
    }
