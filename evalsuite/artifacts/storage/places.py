"""Where something lies: a local path, or the URL of an object store.

`pathlib` would take `s3://bucket` for the folder `s3:`, so a URL is a type of its own. Both join
names with `/`; whoever needs a file system's own calls must first tell the two apart.
"""

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

from evalsuite.errors import UsageError

SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs"}
"""Object stores that evalsuite writes to, by the names that people give them."""


@dataclass(frozen=True)
class StoreUrl:
    """`scheme://bucket/key`: an object, or a folder of objects, without a slash at the end."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, relative: str) -> "StoreUrl":
        return StoreUrl(self.scheme, self.bucket, f"{self.key}/{relative}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the key, or the bucket."""
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> "StoreUrl":
        """The folder that holds it; of a bucket the bucket."""
        return StoreUrl(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def absolute(self) -> "StoreUrl":
        """Itself, as a path has it."""
        return self


Place = Path | StoreUrl


def place_of(given: str | Place) -> Place:
    """The place that a person or a file names.

    Raises:
        UsageError: a URL that is none of an object store that evalsuite writes to.
    """
    if not isinstance(given, str):
        return given
    scheme, colon, rest = given.partition("://")
    if not colon:
        return Path(given)
    if scheme not in SCHEMES:
        raise UsageError(
            f"{given}: {scheme}:// is not read or written: give a local path, s3:// or gs://"
        )
    bucket, _, key = rest.partition("/")
    parts = [part for part in key.split("/") if part]
    if not bucket or {".", ".."} & set(parts):
        raise UsageError(f"{given} is no place of an object store, as {scheme}://bucket/folder is")
    return StoreUrl(SCHEMES[scheme], bucket, "/".join(parts))


def place_seen_from(root: Place, run: str) -> Place:
    """The place that a file at a root names: a URL, or relative to the root, wherever that lies.

    Raises:
        UsageError: a URL that `place_of` refuses, or a relative one that leads out of a bucket.
    """
    if "://" in run:
        return place_of(run)
    if isinstance(root, Path):
        return Path(os.path.normpath(root / run))
    key = posixpath.normpath(posixpath.join(root.key, run))
    if key.startswith(".."):
        raise UsageError(
            f"{root} refers to {run}, which is outside of its bucket: copy the folder that holds"
            " both it and its runs"
        )
    return StoreUrl(root.scheme, root.bucket, key.strip("/"))
