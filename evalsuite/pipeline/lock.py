"""Lock files: what `fetch` brought, by hash, so that an offline node takes exactly that."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from evalsuite.artifacts.storage import LocalStorage, explained
from evalsuite.config import Frozen, Sha256, explain
from evalsuite.errors import CorruptionError, DataError, UsageError

LOCK_SCHEMA = 1


class LockedItem(Frozen):
    """One thing that a run opens."""

    what: str
    """weights, guide, text encoder, extractor, reference or benchmark."""
    name: str
    """File name, or name of the preset or repository."""
    sha256: Sha256
    repo: str | None = None
    revision: str | None = None
    """Commit that was fetched."""
    asked: str | None = None
    """Branch, tag or commit that was asked for; the newest when absent."""
    filename: str | None = None
    """In the repository; a whole folder when absent."""


class Lock(Frozen):
    """The items of one `fetch`."""

    schema_version: int = LOCK_SCHEMA
    model: str
    items: tuple[LockedItem, ...] = Field(default=())

    def pin(self, repo: str, asked: str | None, filename: str | None) -> LockedItem:
        """What is locked of a hub repository's file, or of its folder.

        Raises:
            UsageError: another revision of it, or nothing.
        """
        of_place = [i for i in self.items if (i.repo, i.filename) == (repo, filename)]
        for item in of_place:
            if asked in {item.asked, item.revision}:
                return item
        revisions = ", ".join(item.asked or "the newest" for item in of_place)
        held = f"revision {revisions} of it" if of_place else "nothing of it"
        what = f"{repo}:{filename}" if filename else repo
        raise UsageError(
            f"{what}@{asked or 'main'}: the lock file holds {held}: run `evalsuite fetch` with the"
            " options of this run"
        )

    def check(self, found: tuple[LockedItem, ...]) -> None:
        """Compare what a run is about to open.

        Raises:
            DataError: something is not in this lock, or has other bytes.
        """
        held = {(item.what, item.sha256) for item in self.items}
        for item in found:
            if (item.what, item.sha256) not in held:
                raise DataError(
                    f"{item.what} {item.name} ({item.sha256[:12]}) is not what the lock file holds:"
                    " give the options of its `evalsuite fetch`, or fetch again"
                )


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock file whole."""
    content = json.dumps(lock.model_dump(mode="json", exclude_none=True), indent=1) + "\n"
    LocalStorage(path.resolve().parent).replace(path.name, content.encode())


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
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version is not None and version != LOCK_SCHEMA:
            raise UsageError(f"{path} is a lock file of version {version}: fetch again")
        return Lock.model_validate(content)
    except ValueError as error:
        reason = explain(error, Lock) if isinstance(error, ValidationError) else "no JSON"
        raise CorruptionError(f"{path} is not a lock file: {reason}") from error
