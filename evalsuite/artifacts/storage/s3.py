"""S3 and stores that speak its protocol, through s3fs, which keeps sessions and credentials.

Only single calls of s3fs are used: its files commit what was written so far when an exception
passes, and its own retries cannot tell a lost answer from a lost race.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from evalsuite.artifacts.storage.clients import (
    AT_ONCE,
    CONNECT_S,
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

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
    | {"AuthorizationHeaderMalformed", "InvalidClientTokenId", "UnrecognizedClientException"}
)
_TRANSIENT = frozenset(
    {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling"}
    | {"ThrottlingException", "OperationAborted", "ConditionalRequestConflict", "BadDigest"}
    | {"IncompleteBody", "XAmzContentSHA256Mismatch"}
)
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the machine's role"


class S3Client:
    """`ObjectClient` of one bucket."""

    def __init__(self, bucket: str) -> None:
        """Nothing is asked yet.

        Raises:
            EnvironmentProblem: s3fs is not installed, or its configuration cannot be read.
        """
        self._bucket = bucket
        self._fs = filesystem()
        self._bucket_seen = False

    def put(self, key: str, content: bytes, *, exclusive: bool) -> None:
        """Write an object whole."""
        condition = {"IfNoneMatch": "*"} if exclusive else {}
        self._call("put_object", Key=key, Body=content, **condition)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes start..stop-1 of an object, or to its end; None when it is not there."""
        span = {}
        if start or stop is not None:
            span = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        try:
            content: bytes = self._run(self._fetch, {"Key": key, **span})
        except _Missing:
            self._look_at_bucket()
            return None
        return content

    def num_bytes(self, key: str) -> int | None:
        """The size of an object; None when it is not there."""
        try:
            answer = self._call("head_object", Key=key)
        except _Missing:  # a HEAD has no words: whether the bucket is there is not told
            self._look_at_bucket()
            return None
        except _Unsaid:  # nor whether it is the object or the right that is missing
            if self._is_listed(key):
                raise
            return None
        return int(answer["ContentLength"])

    def pages(self, prefix: str, *, flat: bool) -> Iterator[Callable[[], Page]]:
        """Requests for the pages of a listing: up to 1,000 keys each."""
        at: dict[str, str] | None = {}
        delimiter = {"Delimiter": "/"} if flat else {}

        def page() -> Page:
            nonlocal at
            answer = self._call("list_objects_v2", Prefix=prefix, **delimiter, **(at or {}))
            more = answer.get("NextContinuationToken")
            at = {"ContinuationToken": more} if answer.get("IsTruncated") and more else None
            return Page(
                [
                    StoredObject(o["Key"], int(o["Size"]), o["LastModified"].timestamp(), o["ETag"])
                    for o in answer.get("Contents", ())
                ],
                [folder["Prefix"] for folder in answer.get("CommonPrefixes", ())],
            )

        while at is not None:
            yield page

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        self._call("delete_object", Key=key)

    def copy(self, key: str, target: str) -> bool:
        """Copy an object within the store; False when it is not there."""
        try:
            self._call("copy_object", Key=target, CopySource={"Bucket": self._bucket, "Key": key})
        except _Missing:
            return False
        return True

    def begin_upload(self, key: str) -> str:
        """Begin an object that comes in parts."""
        return str(self._call("create_multipart_upload", Key=key)["UploadId"])

    def upload_part(self, key: str, upload_id: str, part: Part) -> str:
        """Hand in one part."""
        answer = self._call(
            "upload_part", Key=key, UploadId=upload_id, PartNumber=part.number, Body=part.content
        )
        return str(answer["ETag"])

    def complete_upload(self, key: str, upload_id: str, parts: list[str]) -> None:
        """Make the object of all its parts, exclusively."""
        named = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(parts, start=1)]
        self._call(
            "complete_multipart_upload",
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": named},
            IfNoneMatch="*",
        )

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Give an upload up."""
        self._call("abort_multipart_upload", Key=key, UploadId=upload_id)

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """Uploads below a prefix that nobody ended."""
        found: list[Unfinished] = []
        at: dict[str, str] | None = {}
        while at is not None:
            answer = self._call("list_multipart_uploads", Prefix=prefix, **at)
            found += [
                Unfinished(one["Key"], one["UploadId"], one["Initiated"].timestamp())
                for one in answer.get("Uploads", ())
            ]
            at = None
            if answer.get("IsTruncated"):
                at = {
                    "KeyMarker": answer["NextKeyMarker"],
                    "UploadIdMarker": answer["NextUploadIdMarker"],
                }
        return found

    def _is_listed(self, key: str) -> bool:
        """Whether a listing has an object; its own key is the first that begins with it."""
        listed = self._call("list_objects_v2", Prefix=key, MaxKeys=1).get("Contents", ())
        return any(one["Key"] == key for one in listed)

    def _look_at_bucket(self) -> None:
        """Tell a missing object from a missing bucket or right, once."""
        if not self._bucket_seen:
            self._call("list_objects_v2", MaxKeys=1)

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - the protocol's
        answer: dict[str, Any] = self._run(self._fs._call_s3, method, arguments)
        if method == "list_objects_v2":
            self._bucket_seen = True
        return answer

    def _run(self, function: Callable[..., Any], *words: Any) -> Any:  # noqa: ANN401
        from fsspec.asyn import sync

        *names, arguments = words
        try:
            return sync(self._fs.loop, function, *names, Bucket=self._bucket, **arguments)
        except Exception as error:
            refusal = self._refusal_of(error)
            if refusal is None:
                raise
            raise refusal from error

    async def _fetch(self, **arguments: Any) -> bytes:  # noqa: ANN401
        answer = await self._fs._call_s3("get_object", **arguments)
        async with answer["Body"] as body:
            content: bytes = await body.read()
        return content

    def _refusal_of(self, error: Exception) -> StoreRefusal | None:
        """What an exception of s3fs means; None when it is none of the store's."""
        from botocore.exceptions import (
            ClientError,
            HTTPClientError,
            NoCredentialsError,
            ParamValidationError,
            PartialCredentialsError,
        )
        from botocore.exceptions import ConnectionError as NoConnectionError
        from botocore.parsers import ResponseParserError

        said = error if isinstance(error, ClientError) else error.__cause__
        if isinstance(said, ClientError):
            return self._answered(said.response)
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return StoreRefusal(f"there are no credentials for it: set {_CREDENTIALS}")
        if isinstance(error, ParamValidationError):
            return StoreRefusal(f"{self._bucket} is not the name of a bucket")
        if isinstance(error, ResponseParserError):
            return StoreRefusal(f"its answer is not understood: {error}", is_transient=True)
        if isinstance(error, NoConnectionError | HTTPClientError | OSError):
            return StoreRefusal(
                f"the store does not answer ({_first_words(error)})", is_unreachable=True
            )
        return _other_refusal(error)

    def _answered(self, response: dict[str, Any]) -> StoreRefusal:
        """What the store answered."""
        about = response.get("Error", {})
        code, text = str(about.get("Code", "")), str(about.get("Message", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            return StoreRefusal(
                f"bucket {self._bucket} does not exist: make it, or give another place"
            )
        if code in {"PreconditionFailed", "412"}:
            return AlreadyThere()
        if code == "NoSuchUpload":
            return UploadIsGone()
        if code in _MISSING:
            return _Missing(text or code)
        if code in {"403", "400"}:
            return _Unsaid(f"access is denied: check {_CREDENTIALS}, and its rights")
        if code in _BAD_CREDENTIALS:
            return StoreRefusal(f"its credentials are not accepted ({code}): check {_CREDENTIALS}")
        if code == "InvalidBucketName":
            return StoreRefusal(f"{self._bucket} is not the name of a bucket")
        if code in {"AccessDenied", "AllAccessDisabled"}:
            return StoreRefusal(f"access is denied: check {_CREDENTIALS}, and its rights ({text})")
        if 300 <= status < 400 or code == "PermanentRedirect":
            return StoreRefusal(self._elsewhere(about, response))
        is_transient = code in _TRANSIENT or (status >= 500 and status != 501) or status == 429
        return StoreRefusal(f"the store says {code} {text}".strip(), is_transient=is_transient)

    def _elsewhere(self, about: dict[str, Any], response: dict[str, Any]) -> str:
        """What a redirect means that was not followed: it says where to in few cases."""
        asked = self._fs.s3.meta
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        named = headers.get("x-amz-bucket-region") or about.get("Endpoint")
        target = named or "a place that it does not name"
        return (
            f"bucket {self._bucket} is in another region than {asked.region_name}, or not at"
            f" {asked.endpoint_url} (the store redirects to {target}):"
            " set AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL if there is one, to the bucket's own"
        )


class _Missing(StoreRefusal):
    """There is no such object."""


class _Unsaid(StoreRefusal):
    """A refusal without words."""


def _other_refusal(error: Exception) -> StoreRefusal | None:
    """Of aiohttp's and botocore's own errors, by what they are called where they have no base."""
    from aiohttp import ClientError as ConnectionBroken
    from botocore.exceptions import BotoCoreError

    if isinstance(error, ConnectionBroken):
        return StoreRefusal(f"the connection broke ({_first_words(error)})", is_transient=True)
    if isinstance(error, BotoCoreError | ValueError):
        return StoreRefusal(_first_words(error))
    return None


def _first_words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@functools.cache
def filesystem() -> Any:  # noqa: ANN401 - s3fs has no types
    """One session for all buckets of this process; the environment says where and who."""
    try:
        import s3fs
        from aiobotocore.session import AioSession
    except ImportError as error:
        raise EnvironmentProblem(
            "s3:// needs s3fs, which is not installed: pip install 'evalsuite[s3]'"
        ) from error
    session = AioSession()
    session.register("before-call.s3.HeadBucket", _follow_no_redirect)
    filesystem = s3fs.S3FileSystem(
        session=session,
        config_kwargs={
            "connect_timeout": CONNECT_S,
            "read_timeout": READ_S,
            "max_pool_connections": 4 * AT_ONCE,
            "retries": {"total_max_attempts": 1},
        },
        skip_instance_cache=True,
    )
    filesystem.retries = 1
    return filesystem


def _follow_no_redirect(params: dict[str, Any], **_: object) -> None:
    """Let botocore ask for a bucket's region once: it follows redirects by asking so.

    A redirect of that very request, without a region, was followed in the same way, and so on to
    the end of the stack.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
