"""Which storage a place has."""

import functools

from evalsuite.artifacts.storage.base import Storage
from evalsuite.artifacts.storage.clients import ObjectClient
from evalsuite.artifacts.storage.local import LocalStorage
from evalsuite.artifacts.storage.places import Place, StoreUrl, place_of


def open_storage(place: Place | str) -> Storage:
    """The storage whose root is `place`; nothing is looked up or written yet.

    Raises:
        UsageError: a URL of a store that evalsuite does not write to.
        EnvironmentProblem: the package that speaks to that store is not installed.
    """
    found = place_of(place)
    return _object_storage(found) if isinstance(found, StoreUrl) else LocalStorage(found)


def forget_stores() -> None:
    """Ask stores anew, as after a change of the environment."""
    _object_storage.cache_clear()


@functools.lru_cache(maxsize=64)
def _object_storage(url: StoreUrl) -> Storage:
    """Each place has one in a process, so that what it learned of its store is known."""
    from evalsuite.artifacts.storage.objects import ObjectStorage

    client: ObjectClient
    if url.scheme == "gs":
        from evalsuite.artifacts.storage.gcs import GcsClient

        client = GcsClient(url.bucket)
    else:
        from evalsuite.artifacts.storage.s3 import S3Client

        client = S3Client(url.bucket)
    return ObjectStorage(url, client)
