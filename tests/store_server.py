"""An S3 server on the loopback (moto's), and this process's view of it."""

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from evalsuite.artifacts.storage import opening, s3

KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_OTHERS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3")


class S3Server:
    """The server and a client of its own, by which tests look behind ours."""

    def __init__(self, url: str) -> None:
        import boto3

        self.url = url
        self.raw: Any = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.raw.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str) -> list[str]:
        """All that can be seen in a bucket."""
        pages = self.raw.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def unfinished(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that nobody ended."""
        answer = self.raw.list_multipart_uploads(Bucket=bucket)
        return [one["Key"] for one in answer.get("Uploads", ())]

    def content(self, bucket: str, key: str) -> bytes:
        """An object's bytes."""
        body: bytes = self.raw.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server in threads of this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()


def environment_of(url: str) -> dict[str, str]:
    """What a process needs to speak to a server."""
    return {**KEYS, "AWS_ENDPOINT_URL": url}


@contextlib.contextmanager
def speaking_to(url: str, **changes: str | None) -> Iterator[None]:
    """In this process: new sessions with a server; a change of None takes a variable away."""
    env: Mapping[str, str | None] = {**environment_of(url), **dict.fromkeys(_OTHERS), **changes}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        forget()
        try:
            yield
        finally:
            forget()


def forget() -> None:
    """Sessions and what they learned."""
    opening.forget_stores()
    s3.filesystem.cache_clear()
