"""Google Cloud Storage, through gcsfs, which keeps sessions and credentials.

An object that comes in parts is a resumable upload: its id is the address that the store gave, its
last part makes the object.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from evalsuite.artifacts.storage.clients import (
    READ_S,
    AlreadyThere,
    Page,
    Part,
    StoredObject,
    StoreRefusal,
    Unfinished,
    UploadIsGone,
)
from evalsuite.errors import EnvironmentProblem

_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login` or a role"
_TYPE = "application/octet-stream"
_HELD = re.compile(r"^bytes=0-(-1|\d+)$")


class GcsClient:
    """`ObjectClient` of one bucket."""

    def __init__(self, bucket: str) -> None:
        """Nothing is asked yet.

        Raises:
            EnvironmentProblem: gcsfs is not installed.
        """
        self._bucket = bucket
        self._fs = filesystem()
        self._bucket_seen = False

    def put(self, key: str, content: bytes, *, exclusive: bool) -> None:
        """Write an object whole."""
        from gcsfs.core import simple_upload

        mode = "create" if exclusive else "overwrite"
        try:
            self._run(simple_upload, self._fs, self._bucket, key, content, mode=mode)
        except _Missing as missing:
            raise self._no_bucket() from missing

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes start..stop-1 of an object, or to its end; None when it is not there."""
        span = {"start": start, "end": stop} if start or stop is not None else {}
        try:
            content: bytes = self._run(self._fs._cat_file, f"{self._bucket}/{key}", **span)
        except _Missing:
            self._look_at_bucket()
            return None
        return content

    def num_bytes(self, key: str) -> int | None:
        """The size of an object; None when it is not there."""
        try:
            return int(self._ask("GET", "b/{}/o/{}", self._bucket, key)["size"])
        except _Missing:
            self._look_at_bucket()
            return None

    def pages(self, prefix: str, *, flat: bool) -> Iterator[Callable[[], Page]]:
        """Requests for the pages of a listing: up to 1,000 keys each."""
        at: dict[str, str] | None = {}
        delimiter = {"delimiter": "/"} if flat else {}

        def page() -> Page:
            nonlocal at
            try:
                answer = self._ask(
                    "GET", "b/{}/o", self._bucket, prefix=prefix, **delimiter, **(at or {})
                )
            except _Missing as missing:
                raise self._no_bucket() from missing
            more = answer.get("nextPageToken")
            at = {"pageToken": more} if more else None
            objects = [
                StoredObject(
                    o["name"],
                    int(o["size"]),
                    _seconds(o["updated"]),
                    str(o.get("generation") or o.get("etag", "")),
                )
                for o in answer.get("items", ())
            ]
            return Page(objects, list(answer.get("prefixes", ())))

        while at is not None:
            yield page

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        try:
            self._run(self._fs._call, "DELETE", "b/{}/o/{}", self._bucket, key)
        except _Missing:
            self._look_at_bucket()

    def copy(self, key: str, target: str) -> bool:
        """Copy an object within the store; False when it is not there."""
        try:
            self._run(self._fs._cp_file, f"{self._bucket}/{key}", f"{self._bucket}/{target}")
        except _Missing:
            return False
        return True

    def begin_upload(self, key: str) -> str:
        """Begin a resumable upload; gives its address."""
        from gcsfs.core import initiate_upload

        try:
            return str(self._run(initiate_upload, self._fs, self._bucket, key, mode="create"))
        except _Missing as missing:
            raise self._no_bucket() from missing

    def upload_part(self, key: str, upload_id: str, part: Part) -> str:  # noqa: ARG002 - the id says it
        """Hand in one part; the last one makes the object."""
        end = part.offset + len(part.content)
        total = str(end) if part.is_last else "*"
        at = part.offset
        while at < end:
            span = {"Content-Range": f"bytes {at}-{end - 1}/{total}"}
            kept = self._sent(upload_id, span, part.content[at - part.offset :])
            if kept is None:
                if part.is_last:
                    break
                raise StoreRefusal(f"it made an object of the first {end} bytes")
            if kept <= at:
                raise _not_kept(kept, at)
            at = kept
        return str(end)

    def complete_upload(self, key: str, upload_id: str, parts: list[str]) -> None:  # noqa: ARG002
        """Say that there is no more; the object may be there already."""
        kept = self._sent(upload_id, {"Content-Range": f"bytes */{parts[-1]}"}, b"")
        if kept is not None:
            raise _not_kept(kept, int(parts[-1]))

    def abort_upload(self, key: str, upload_id: str) -> None:  # noqa: ARG002 - the id says it
        """Give an upload up; the store answers 499, or has forgotten it."""
        try:
            self._run(self._fs._call, "DELETE", upload_id)
        except (_Missing, UploadIsGone):
            return

    def unfinished(self, prefix: str) -> list[Unfinished]:  # noqa: ARG002 - nobody tells
        """None: the store lists no resumable uploads, keeps them a week and takes no money."""
        return []

    def _sent(self, upload_id: str, span: dict[str, str], content: bytes) -> int | None:
        """Bytes that the store holds of an upload by now; None when it has made the object.

        An upload that goes on is answered by 308, with a Range of what is held, or without one when
        nothing is; one that was given up by 499.
        """
        headers = {**span, "Content-Type": _TYPE, "Content-Length": str(len(content))}
        try:
            status, told, _, _ = self._run(
                self._fs._request, "PUT", upload_id, headers=headers, data=content
            )
        except _Missing as missing:
            raise UploadIsGone from missing
        if status == 308:
            held = _HELD.match(told.get("Range", "bytes=0--1"))
            if held is None:
                raise StoreRefusal(f"its Range {told['Range']!r} is not understood")
            return int(held[1]) + 1
        if status == 499:
            raise UploadIsGone
        if status not in {200, 201}:
            raise StoreRefusal(f"the store answered an upload by {status}", is_transient=True)
        return None

    def _look_at_bucket(self) -> None:
        """Tell a missing object from a missing bucket, once."""
        if not self._bucket_seen:
            next(self.pages("", flat=True))()

    def _no_bucket(self) -> StoreRefusal:
        return StoreRefusal(f"bucket {self._bucket} does not exist: make it, or give another place")

    def _ask(self, method: str, path: str, *words: str, **query: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._run(
            self._fs._call, method, path, *words, json_out=True, **query
        )
        self._bucket_seen = True
        return answer

    def _run(self, function: Callable[..., Any], *words: Any, **named: Any) -> Any:  # noqa: ANN401
        from fsspec.asyn import sync

        try:
            return sync(self._fs.loop, function, *words, **named)
        except Exception as error:
            refusal = _refusal_of(error)
            if refusal is None:
                raise
            raise refusal from error


class _Missing(StoreRefusal):
    """There is no such object, or no such bucket."""


def _not_kept(kept: int, sent: int) -> StoreRefusal:
    """Bytes of an upload that the store does not have; asked again, it may."""
    return StoreRefusal(f"the store kept {kept} of {sent} bytes sent to it", is_transient=True)


def _refusal_of(error: Exception) -> StoreRefusal | None:
    """What an exception of gcsfs means; None when it is none of the store's."""
    from aiohttp import ClientError
    from gcsfs.retry import HttpError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, FileNotFoundError):
        return _Missing(words)
    if isinstance(error, FileExistsError):
        return AlreadyThere()
    if isinstance(error, GoogleAuthError):
        return StoreRefusal(f"there are no credentials for it ({words}): set {_CREDENTIALS}")
    if isinstance(error, HttpError):
        code = int(error.code or 0)
        if code == 401:
            return StoreRefusal(f"its credentials are not accepted: check {_CREDENTIALS}")
        return StoreRefusal(f"the store says {words}", is_transient=code >= 500 or code == 429)
    if isinstance(error, ClientError | RequestException | TimeoutError):
        return StoreRefusal(f"the store does not answer ({words})", is_unreachable=True)
    if isinstance(error, OSError):
        denied = f"access is denied: check {_CREDENTIALS}, and its rights ({words})"
        return StoreRefusal(denied if words.startswith("Forbidden") else words)
    return StoreRefusal(words) if isinstance(error, ValueError) else None


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@functools.cache
def filesystem() -> Any:  # noqa: ANN401 - gcsfs has no types
    """One session for all buckets of this process; the environment says who."""
    try:
        from gcsfs.core import GCSFileSystem
    except ImportError as error:
        raise EnvironmentProblem(
            "gs:// needs gcsfs, which is not installed: pip install 'evalsuite[gcs]'"
        ) from error
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it tells every refusal by a traceback
    return GCSFileSystem(requests_timeout=READ_S, skip_instance_cache=True)
