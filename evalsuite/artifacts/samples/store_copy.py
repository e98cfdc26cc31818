"""Samples of an object store, copied once into this machine's cache and opened there as files.

A copy is named by the names, sizes and times of its objects: where one of them changes, another
copy is made. Bytes come in ranges of some megabytes, so that memory is bounded whatever their size.
"""

import contextlib
import fcntl
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from evalsuite.artifacts.digests import cache_root
from evalsuite.artifacts.samples.walking import PICTURES
from evalsuite.artifacts.storage import (
    Listed,
    LocalStorage,
    Place,
    Storage,
    StoreUrl,
    explained,
    open_storage,
)
from evalsuite.errors import DataError, StorageError

WANTED = PICTURES | {".npz", ".parquet"}
_AT_ONCE = 8
"""Files that come at the same time."""


class SampleCopy(NamedTuple):
    """Samples in the cache."""

    folder: Path
    num_bytes: int
    used_at: float
    """When a file was read last, as far as the disk notes it; seconds since 1970."""


Notice = Callable[[str], None]


def local_samples(place: Place, notice: Notice | None = None) -> Path:
    """Where samples can be opened as files: the path itself, or a copy of what a URL names.

    Args:
        place: a file or a folder.
        notice: is told when something is copied.

    Raises:
        DataError: a URL where nothing is that could be samples.
        StorageError: the store, or this machine's cache, cannot be read or written.
    """
    if not isinstance(place, StoreUrl):
        return place
    storage, files = _found(place)
    key = "\n".join([str(place), *(f"{f.path}\0{f.num_bytes}\0{f.modified_at}" for f in files)])
    top = cache_root() / "samples" / hashlib.sha256(key.encode()).hexdigest()[:32]
    copy = top / place.name
    with _locked(top):
        if not copy.exists():
            _check_room(top, files, place)
            size = sum(file.num_bytes for file in files)
            if notice is not None:
                notice(f"copying {len(files):,} files ({size / 1e6:,.1f} MB) from {place} to {top}")
            _bring(storage, files, copy)
            if _found(place)[1] != files:
                _remove(copy)
                raise DataError(f"{place} changed while it was copied: run the same command again")
    return copy


def copies() -> list[SampleCopy]:
    """What lies in this machine's cache."""
    root = cache_root() / "samples"
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        files = [path for path in folder.rglob("*") if path.is_file()]
        used_at = max((path.stat().st_atime for path in files), default=0.0)
        found.append(SampleCopy(folder, sum(path.stat().st_size for path in files), used_at))
    return found


def remove_copy(one: SampleCopy) -> None:
    """Remove a copy; what another process removes at the same time is no error."""
    shutil.rmtree(one.folder, ignore_errors=True)


def _found(place: StoreUrl) -> tuple[Storage, list[Listed]]:
    """The storage that holds what a URL names, and its files: one, or those of a folder."""
    if PurePosixPath(place.key).suffix.lower() in WANTED:
        parent = open_storage(place.parent)
        file = parent.listed(place.name)
        if file is not None:
            return parent, [file]
    storage = open_storage(place)
    files = [
        file
        for file in storage.listing()
        if not any(part.startswith(".") for part in PurePosixPath(file.path).parts)
    ]
    if not any(PurePosixPath(file.path).suffix.lower() in WANTED for file in files):
        raise DataError(
            f"{place} holds no samples: give a run, an NPZ, a folder of images or Parquet"
        )
    return storage, files


def _bring(storage: Storage, files: Sequence[Listed], copy: Path) -> None:
    """Copy beside the place and rename: a copy is whole, or not there."""
    aside = copy.with_name(f".{uuid.uuid4().hex}")
    single = [file.path for file in files] == [copy.name]

    def one(file: Listed) -> None:
        target = aside if single else aside / file.path
        with explained(target, "write"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as raw:
                for portion in storage.portions(file.path, file.num_bytes):
                    raw.write(portion)

    try:
        with ThreadPoolExecutor(_AT_ONCE) as team:
            for coming in [team.submit(one, file) for file in files]:
                coming.result()
        with explained(copy, "write"):
            aside.rename(copy)
    except BaseException:
        _remove(aside)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _check_room(top: Path, files: Sequence[Listed], place: StoreUrl) -> None:
    size, free = sum(file.num_bytes for file in files), LocalStorage(top).free_bytes()
    if free is not None and size > free:
        raise StorageError(
            f"{place} holds {size / 1e9:.1f} GB, and {top} has {free / 1e9:.1f} GB free:"
            " free some space, or set EVALSUITE_CACHE to a larger disk"
        )


@contextlib.contextmanager
def _locked(top: Path) -> Iterator[None]:
    """One process copies while others wait for it."""
    with explained(top, "write"):
        top.mkdir(parents=True, exist_ok=True)
        handle = (top / ".lock").open("ab")
    with handle:
        with explained(top, "lock"):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
