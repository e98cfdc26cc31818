"""Files from an address into this machine's cache: checked, whole or not there, and resumed.

A file whose SHA-256 nobody has published is pinned when it first comes: from then on this machine
knows its digest, in a small file beside it.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evalsuite.artifacts.digests import cache_root, known_sha256
from evalsuite.artifacts.storage import LocalStorage, explained, file_sha256
from evalsuite.config import FilePlace
from evalsuite.errors import (
    CorruptionError,
    DataError,
    EnvironmentProblem,
    StorageError,
    UsageError,
)

Progress = Callable[[int, int | None], None]
"""Told the bytes that are here, and of how many; None when the server does not say."""

_TIMEOUT_S = (10.0, 60.0)  # to connect; between two portions
_PORTION = 2**16  # what is lost, at most, where a connection breaks
_MOST_TRIES = 20  # of one call, as long as each brings something


def cached_path(place: FilePlace) -> Path:
    """Where a file lies in the cache, whether it is there or not.

    Raises:
        DataError: its name is not that of a plain file.
    """
    name = place.filename
    if name != Path(name).name or name in {"", ".", ".."}:
        raise DataError(f"{place.url}: {name!r} is not the name of a file")
    folder = place.sha256 or f"url-{hashlib.sha256(place.url.encode()).hexdigest()[:32]}"
    return cache_root() / "files" / folder / name


def cached_file(place: FilePlace) -> Path | None:
    """The file in the cache, its bytes checked; None when it is not there.

    Raises:
        CorruptionError: it has other bytes than were published, or than first came from there.
    """
    path = cached_path(place)
    wanted = place.sha256 or _pinned(path)
    if wanted is None or not path.is_file():
        return None
    if known_sha256(path) != wanted:
        raise CorruptionError(f"{path} has changed since it was fetched: remove it and fetch again")
    return path


def remove_cached(place: FilePlace) -> None:
    """Remove a file, and what it was pinned to, from the cache: it is not what it should be."""
    path = cached_path(place)
    with _locked(path), explained(path, "remove"):
        for one in (path, _pin(path)):
            one.unlink(missing_ok=True)


def forget_pin(place: FilePlace) -> None:
    """Forget what a file was pinned to that is not in the cache; one that is there stays."""
    path = cached_path(place)
    with _locked(path), explained(path, "remove"):
        if not path.is_file():
            _pin(path).unlink(missing_ok=True)


def fetch_file(
    place: FilePlace, *, allow_unverified: bool = False, progress: Progress | None = None
) -> Path:
    """The file in the cache, downloaded if it is not there yet.

    It appears under its name only when it is whole and checked. What an interrupted download left
    is taken up by the next call, as far as the server offers that. One process downloads while
    others wait for it.

    Args:
        place: the address and what is known of the file.
        allow_unverified: take a file whose SHA-256 is not known.
        progress: called from time to time.

    Raises:
        UsageError: the SHA-256 is not known, and that is not allowed.
        CorruptionError: the address serves other bytes; they are removed.
        EnvironmentProblem: the address cannot be reached, or breaks off.
        StorageError: the cache cannot be written, or is too small.
    """
    path = cached_path(place)
    with _locked(path):
        with contextlib.suppress(CorruptionError):
            found = cached_file(place)
            if found is not None:
                return found
        if place.sha256 is None and not allow_unverified:
            raise UsageError(
                f"{place.filename}: nobody has published the SHA-256 of {place.url}, so what comes"
                " cannot be checked: pass --allow-unverified to take it as it is"
            )
        _bring(place, path, progress)
    return path


def _bring(place: FilePlace, path: Path, progress: Progress | None) -> None:
    """Download beside `path`, check, and rename."""
    part = path.with_name(f".{path.name}.part")
    wanted = place.sha256 or _pinned(path)
    if wanted is None:  # nothing would notice if the rest came from another version
        part.unlink(missing_ok=True)
    resumed = _size(part) > 0
    _download(place, part, progress)
    with explained(part, "read"):
        digest = file_sha256(part)
    if wanted is not None and digest != wanted and resumed:
        part.unlink()
        _download(place, part, progress)
        digest = file_sha256(part)
    if wanted is not None and digest != wanted:
        part.unlink()
        note = f" ({place.note})" if place.note else ""
        whose = "published" if place.sha256 else f"that first came, kept in {_pin(path).name}"
        raise CorruptionError(
            f"{place.url} serves a file with the SHA-256 {digest}, not the one {whose}, {wanted}:"
            f" it was removed{note}"
        )
    if place.sha256 is None:
        LocalStorage(path.parent).replace(_pin(path).name, f"{digest}\n".encode())
    with explained(path, "write"):
        part.replace(path)


def _download(place: FilePlace, part: Path, progress: Progress | None) -> None:
    """Fill `part`, from where it stands, as long as every try brings something."""
    import requests

    for _ in range(_MOST_TRIES):
        before = _size(part)
        try:
            whole = _Transfer(place, part, progress).run()
        except requests.exceptions.RequestException as error:
            if _size(part) > before:
                continue
            raise EnvironmentProblem(_failure(place, error)) from error
        if whole:
            return
        if _size(part) == before:
            break
    raise EnvironmentProblem(_failure(place, None))


class _Transfer:
    """One request, whose answer goes to the end of a file; the shape of a pooch progress bar."""

    def __init__(self, place: FilePlace, part: Path, progress: Progress | None) -> None:
        self._place, self._part, self._progress = place, part, progress
        self._have = _size(part)
        self._expected: int | None = None
        self.total: int | None = None

    def run(self) -> bool:
        """Whether the file is whole now.

        Raises:
            requests.exceptions.RequestException: no connection, a refusal, or a broken one.
        """
        import requests
        from pooch import HTTPDownloader

        headers = {"Accept-Encoding": "identity"}  # so that lengths are those of the file
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
        download = HTTPDownloader(
            progressbar=self,
            chunk_size=_PORTION,
            timeout=_TIMEOUT_S,
            headers=headers,
            hooks={"response": self._on_response},
        )
        with explained(self._part, "write"):
            self._raw = self._part.open("ab", buffering=0)
        with self._raw:
            try:
                download(self._place.url, self, None)
            except requests.exceptions.HTTPError as error:
                if error.response is None or error.response.status_code != 416:
                    raise
                self._expected = self._place.num_bytes or self._have  # nothing is left to come
                if self._have > self._expected:
                    self._raw.truncate(0)
        return self._expected is None or _size(self._part) == self._expected

    def _on_response(self, response: Any, *_: object, **__: object) -> None:  # noqa: ANN401
        """Before the body comes: what it is the rest of, and whether there is room for it."""
        if response.status_code not in {200, 206}:
            return
        if response.status_code == 200 and self._have:  # from the start, asked or not
            self._raw.truncate(0)
            self._have = 0
        length = response.headers.get("Content-Length", "")
        coming = int(length) if length.isdecimal() else None
        known = self._place.num_bytes
        self._expected = self._have + coming if coming is not None else known
        if known is not None and self._expected != known:
            self._part.unlink()
            raise CorruptionError(
                f"{self._place.url} serves {self._expected} bytes, not the {known} of"
                f" {self._place.filename}: another file is there now"
            )
        free = LocalStorage(self._part.parent).free_bytes()
        if coming is not None and free is not None and coming > free:
            raise StorageError(
                f"{self._part.parent} has {free:,} bytes free, but {self._place.filename} needs"
                f" {coming:,} more: free some space, or name another folder in EVALSUITE_CACHE"
            )

    def write(self, data: bytes) -> None:
        """Append a portion."""
        with explained(self._part, "write"):
            self._raw.write(data)
        self._have += len(data)
        if self._progress is not None:
            self._progress(self._have, self._expected)

    def flush(self) -> None:
        """Nothing: the file is flushed when it is closed."""

    def update(self, count: int) -> None:
        """Nothing: `write` counts the bytes that really came."""

    def reset(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _failure(place: FilePlace, error: Exception | None) -> str:
    """One line without the insides of the client."""
    response = getattr(error, "response", None)
    if response is not None:
        reason = f"the server answers {response.status_code} {response.reason or ''}".strip()
    else:
        reason = "the server cannot be reached, or breaks off"
    return (
        f"{place.filename} cannot be fetched from {place.url}: {reason}; what has come stays, so"
        " the same command goes on from there; or bring the file by other means and give its path"
    )


def _pin(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _pinned(path: Path) -> str | None:
    """The digest that this machine noted when the file first came."""
    try:
        text = _pin(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text or None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes of this user from downloading the same file."""
    with explained(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with explained(path, "lock"):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
