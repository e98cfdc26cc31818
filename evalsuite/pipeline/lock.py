"""Lock files: what `fetch` brought, by hash, so that an offline node takes exactly that."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from evalsuite.artifacts.storage import Storage, explained
from evalsuite.config import Frozen, Sha256, explain
from evalsuite.errors import CorruptionError, UsageError

LOCK_SCHEMA = 1


class LockedItem(Frozen):
    """One thing that a run opens."""

    what: str
    """weights, guide, text encoder, extractor or reference."""
    name: str
    """File name, or name of the preset or repository."""
    sha256: Sha256
    repo: str | None = None
    revision: str | None = None
    filename: str | None = None
    """In the repository; a whole folder when absent."""


class Lock(Frozen):
    """The items of one `fetch`."""

    schema_version: int = LOCK_SCHEMA
    model: str
    items: tuple[LockedItem, ...] = Field(default=())

    def pin(self, repo: str, filename: str | None) -> LockedItem | None:
        """What is locked of a hub repository's file, or of its folder."""
        for item in self.items:
            if (item.repo, item.filename) == (repo, filename):
                return item
        return None


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock file whole."""
    content = json.dumps(lock.model_dump(mode="json", exclude_none=True), indent=1) + "\n"
    Storage(path.resolve().parent).replace(path.name, content.encode())


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        UsageError: there is none, or it is of another version.
        CorruptionError: it is not what `fetch` wrote.
    """
    if not path.is_file():
        raise UsageError(f"lock file {path} does not exist: `evalsuite fetch` writes one")
    with explained(path, "read"):
        text = path.read_bytes()
    try:
        content: Any = json.loads(text)
        lock = Lock.model_validate(content)
    except ValueError as error:
        reason = explain(error, Lock) if isinstance(error, ValidationError) else "no JSON"
        raise CorruptionError(f"{path} is not a lock file: {reason}") from error
    if lock.schema_version != LOCK_SCHEMA:
        raise UsageError(f"{path} is a lock file of version {lock.schema_version}: fetch again")
    return lock
