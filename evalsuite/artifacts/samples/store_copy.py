"""Samples of an object store, copied into this machine's cache once."""

from pathlib import Path

from evalsuite.artifacts.storage import Place, StoreUrl
from evalsuite.errors import UsageError


def local_samples(place: Place) -> Path:
    """Where samples can be opened as files: the path itself, or a copy of what a URL names.

    Raises:
        UsageError: a URL of a store that is not read.
    """
    if isinstance(place, StoreUrl):
        raise UsageError(f"{place}: samples of object stores are not read yet")
    return place
