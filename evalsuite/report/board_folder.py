"""The folder of a leaderboard: its own files are replaced or removed, others never touched."""

import json
from collections.abc import Iterable, Mapping

from evalsuite.artifacts.storage import Storage
from evalsuite.config import parse_json
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.record_files import BOARD
from evalsuite.sweep.making import make_once

MARKER = BOARD
"""Names what was written, so that the next board knows which files are its own."""


def write_board(storage: Storage, files: Mapping[str, bytes]) -> None:
    """Write the files of a board, and remove those of the board before it that are in it no more.

    Raises:
        UsageError: other files lie there, and no board.
        CorruptionError: the list of the board's files cannot be read.
    """
    make_once(storage, MARKER, _marker(files), "leaderboard")
    before = _listed(storage)
    storage.replace(MARKER, _marker({*before, *files}))  # whatever ends this, both are still known
    for name, content in files.items():
        storage.replace(name, content)
    for name in before - files.keys():
        storage.delete(name)
    storage.replace(MARKER, _marker(files))


def _marker(names: Iterable[str]) -> bytes:
    return (json.dumps({"schema_version": 1, "files": sorted(names)}, indent=1) + "\n").encode()


def _listed(storage: Storage) -> set[str]:
    where = storage.root / MARKER
    try:
        names = parse_json(storage.read(MARKER))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptionError(f"{where} cannot be read: give a new --output") from error
    plain = isinstance(names, list) and all(
        isinstance(name, str) and name and not name.startswith(".") and "/" not in name
        for name in names
    )
    if not plain:
        raise CorruptionError(f"{where} does not list files of this folder: give a new --output")
    return set(names)
