"""Which storage a place has."""

from evalsuite.artifacts.storage.base import Storage
from evalsuite.artifacts.storage.local import LocalStorage
from evalsuite.artifacts.storage.places import Place, StoreUrl, place_of
from evalsuite.errors import UsageError


def open_storage(place: Place | str) -> Storage:
    """The storage whose root is `place`; nothing is looked up or written yet.

    Raises:
        UsageError: a URL of a store that evalsuite does not write to.
    """
    found = place_of(place)
    if isinstance(found, StoreUrl):
        raise UsageError(f"{found}: object stores are not written to yet")
    return LocalStorage(found)
