"""Durable files under one root, on file systems and object stores."""

from evalsuite.artifacts.storage.base import (
    FileEntry,
    HashingWriter,
    Listed,
    Stamp,
    Storage,
    explained,
)
from evalsuite.artifacts.storage.local import LocalStorage, file_sha256
from evalsuite.artifacts.storage.opening import open_storage
from evalsuite.artifacts.storage.places import Place, StoreUrl, place_of, place_seen_from

__all__ = [
    "FileEntry",
    "HashingWriter",
    "Listed",
    "LocalStorage",
    "Place",
    "Stamp",
    "Storage",
    "StoreUrl",
    "explained",
    "file_sha256",
    "open_storage",
    "place_of",
    "place_seen_from",
]
