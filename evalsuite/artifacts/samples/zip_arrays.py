"""Arrays inside an NPZ: their headers, and their bytes from any place, without holding them whole.

Pickled objects are never loaded.
"""

import contextlib
import math
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import UNREADABLE
from evalsuite.errors import CorruptionError, DataError

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1
_VERIFIED = 1 << 24
"""Bytes at a time."""


@dataclass(frozen=True)
class ZipArray:
    """One `.npy` member of a zip.

    Attributes:
        path: of the zip.
        name: of the array, without `.npy`.
        shape: as the header says.
        dtype: as the header says.
        fortran: whether the first axis runs fastest.
        header_bytes: where the values begin in the member.
        stored_at: where the member begins in the file; None when it is compressed.
        crc: checksum of the whole member.
        num_bytes: of the whole member.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    header_bytes: int
    stored_at: int | None
    crc: int
    num_bytes: int

    @property
    def value_bytes(self) -> int:
        """Bytes of the values by shape and type."""
        return math.prod(self.shape) * self.dtype.itemsize

    def head(self, num_bytes: int) -> bytes:
        """The first bytes of the values.

        Raises:
            DataError: the file cannot be read.
        """
        with opened_zip(self.path) as archive, archive.open(f"{self.name}.npy") as raw:
            raw.read(self.header_bytes)
            return raw.read(num_bytes)

    def stream(self, start: int, stop: int, step: int) -> Iterator[NDArray[np.uint8]]:
        """Bytes start..stop-1 of the values, in pieces of `step` bytes.

        A stored member is read where it lies; a compressed one is decompressed from its beginning.
        The zip's checksum is verified when everything is read, from the first byte to the last.

        Raises:
            CorruptionError: the file ends early, or is not what its checksum says.
            DataError: it cannot be read.
        """
        if self.stored_at is None:
            return self._inflated(start, stop, step)
        return self._stored(self.stored_at, start, stop, step)

    def verify(self, unwanted: threading.Event) -> None:
        """Compare the checksum of everything, which reading ranges does not.

        Args:
            unwanted: ends this early when it is set.

        Raises:
            CorruptionError: the values are not the ones that were written.
            DataError: the file cannot be read.
        """
        for _ in self.stream(0, self.value_bytes, _VERIFIED):
            if unwanted.is_set():
                return

    def _stored(self, at: int, start: int, stop: int, step: int) -> Iterator[NDArray[np.uint8]]:
        whole = start == 0 and stop == self.value_bytes
        try:
            with self.path.open("rb", buffering=0) as raw:
                raw.seek(at)
                crc = zlib.crc32(raw.read(self.header_bytes)) if whole else 0
                raw.seek(at + self.header_bytes + start)
                for low in range(start, stop, step):
                    piece = self._filled(raw, low, min(step, stop - low))
                    crc = zlib.crc32(piece.data, crc) if whole else 0
                    if whole and low + len(piece) == stop and crc != self.crc:
                        raise CorruptionError(self._wrong_sum())
                    yield piece
        except OSError as error:
            raise DataError(f"{self.path}: cannot read {self.name}: {error}") from error

    def _inflated(self, start: int, stop: int, step: int) -> Iterator[NDArray[np.uint8]]:
        try:
            with opened_zip(self.path) as archive, archive.open(f"{self.name}.npy") as raw:
                raw.seek(self.header_bytes + start)
                for low in range(start, stop, step):
                    piece = self._filled(raw, low, min(step, stop - low))
                    if low + len(piece) == self.value_bytes:
                        raw.read(1)  # zipfile compares the checksum at the end of the member
                    yield piece
        except (zlib.error, zipfile.BadZipFile, EOFError) as error:
            raise CorruptionError(f"{self.path}: {self.name} is damaged: {error}") from error
        except UNREADABLE as error:
            raise DataError(f"{self.path}: cannot read {self.name}: {error}") from error

    def _filled(self, raw: IO[bytes], low: int, count: int) -> NDArray[np.uint8]:
        """The next `count` bytes, which may take several reads."""
        piece = np.empty(count, np.uint8)
        view, got = piece.data, 0
        while got < count:
            num = raw.readinto(view[got:])  # type: ignore[attr-defined]
            if not num:
                raise CorruptionError(
                    f"{self.path} is truncated: {self.name} ends after {low + got:,} of"
                    f" {self.value_bytes:,} bytes"
                )
            got += num
        return piece

    def _wrong_sum(self) -> str:
        return f"{self.path}: {self.name} is damaged: its bytes do not match the zip's checksum"


@contextlib.contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """An NPZ as a zip.

    Raises:
        DataError: it is no zip, or a truncated one.
    """
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise DataError(
            f"{path} is not a readable NPZ (truncated or of another format): {error}"
        ) from error
    with archive:
        yield archive


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an NPZ, in the order of the file.

    Raises:
        DataError: it is no readable NPZ.
    """
    with opened_zip(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def zip_array(path: Path, name: str) -> ZipArray:
    """Header and place of one array, which must be there.

    Raises:
        DataError: its header cannot be read.
        CorruptionError: there are fewer or more bytes than the header promises.
    """
    with opened_zip(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{path}: {name} is encrypted: write it without a password")
        try:
            with archive.open(info) as raw:
                shape, fortran, dtype = _header(raw)
                header_bytes = raw.tell()
            stored_at = _data_offset(path, info)
        except UNREADABLE as error:
            raise DataError(f"{path}: {name}.npy has no readable header: {error}") from error
    array = ZipArray(
        path, name, shape, dtype, fortran, header_bytes, stored_at, info.CRC, info.file_size
    )
    expected = header_bytes + array.value_bytes
    if not dtype.hasobject and info.file_size != expected:
        raise CorruptionError(
            f"{path}: {name} is truncated or broken: the header promises {expected:,} bytes, the"
            f" zip holds {info.file_size:,}"
        )
    return array


def read_npz_array(path: Path, name: str) -> NDArray[np.generic] | None:
    """One whole array of an NPZ, None when it is absent; pickled objects are refused.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name] if name in archive.files else None
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot read {name}: {error}") from error


def _header(raw: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(raw)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(raw)
    return np.lib.format.read_array_header_2_0(raw)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int | None:
    """Where a stored member begins: its local header has a length of its own."""
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)
