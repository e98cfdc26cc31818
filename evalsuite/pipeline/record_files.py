"""Files of records, which comparisons, boards and checks read in one way."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evalsuite.artifacts.records import RECORD_SCHEMA, UNSEALED, Record, record_digest
from evalsuite.artifacts.run_directory import is_run
from evalsuite.config import canonical_json, explain, parse_json
from evalsuite.errors import CorruptionError, DataError

BOARD, SWEEP, WATCH = "board.json", "sweep.json", "watch.json"
"""Files by which folders of boards, sweeps and watches are known."""
_OWN = {
    BOARD: ("files", {BOARD}),
    SWEEP: ("sweep_id", {SWEEP, "result.json", "rungs"}),
    WATCH: ("pattern", {WATCH, "checkpoints"}),
}
"""A key of each, which no record has, and what else in its folder is ours and holds no record."""


_OF_SAMPLES = ("plan_id", "model", "path", "pixels_digest")
"""What is equal in records of one set of samples; file names alone are not enough."""


class Written(NamedTuple):
    """What stands where a record should be.

    Attributes:
        content: parsed JSON.
        where: its file, and its place there where the file is a list.
        file_name: of a file that is one record.
    """

    content: Any
    where: str
    file_name: str | None


def inputs_of(path: Path) -> list[Path]:
    """A file or a run itself; of another folder its runs with results, and JSON files outside runs.

    Runs are found at any depth, behind links too; in one nothing but its results is a record, and
    what boards, sweeps and watches keep for themselves is none.

    Raises:
        DataError: there is nothing, or neither a run with results nor a JSON file, or a folder that
            cannot be listed.
    """
    if path.is_file() or is_run(path):
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist: give files of records, or a folder of them")
    found = _inputs_in(path)
    if not found:
        raise DataError(f"{path} holds no JSON file: give records, or a folder of them")
    return found


def _inputs_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        here, real = Path(where), os.path.realpath(where)
        if real in seen or "manifest.json" in names:
            found += [here] if real not in seen and _results_of(here) else []
            folders.clear()
        else:
            own = _own_in(here, names)
            found += [here / name for name in names if name.endswith(".json") and name not in own]
            folders[:] = sorted(name for name in folders if name not in own)
        seen.add(real)
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error


def _own_in(folder: Path, names: Iterable[str]) -> set[str]:
    """Names of what a board, a sweep or a watch keeps for itself in its folder."""
    own: set[str] = set()
    for marker in _OWN.keys() & set(names):
        key, theirs = _OWN[marker]
        try:
            content = _parsed(folder / marker)
        except DataError:  # it is told of as any other file
            continue
        if isinstance(content, dict) and key in content:
            own |= theirs
    return own


def files_of(path: Path) -> list[Path]:
    """The files of `inputs_of`: of each run its results.

    Raises:
        DataError: as `inputs_of`, or a run without results.
    """
    found = [f for one in inputs_of(path) for f in (_results_of(one) if one.is_dir() else [one])]
    if not found:
        raise DataError(f"{path / 'results'} holds no JSON file: give a run that was scored")
    return found


def _results_of(run: Path) -> list[Path]:
    return sorted((run / "results").glob("*.json"))


def written_in(path: Path) -> list[Written]:
    """What a file holds: one record, or what `--json` of `run` or `evaluate` wrote.

    Raises:
        DataError: it is not JSON, or a list of records in it is empty.
    """
    content = _parsed(path)
    if not isinstance(content, dict) or not {"records", "runs"} & content.keys():
        return [Written(content, str(path), path.name)]
    found = [Written(one, f"{path}, record {at}", None) for at, one in enumerate(_listed(content))]
    if not found:
        raise DataError(f"{path} holds no records: give what `evalsuite evaluate --json` wrote")
    return found


def _parsed(path: Path) -> Any:  # noqa: ANN401 - whatever is there
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}): give a run, or a file that --json wrote"
        ) from error


def _listed(content: dict[str, Any]) -> Iterator[object]:
    """Records of the file; of several runs those of each, the first of which stands above too."""
    for part in content.get("runs") or [content]:
        records = part.get("records") if isinstance(part, dict) else None
        yield from records if isinstance(records, list) else ()


def read_record(content: object, where: str) -> Record:
    """A record from JSON, its hashes compared.

    One without its own hash has that among its notes, which stand beside its number everywhere.

    Raises:
        DataError: it is of a newer version.
        CorruptionError: it cannot be read, or was edited.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > RECORD_SCHEMA:
        raise DataError(
            f"{where} has schema version {version}, newer than this evalsuite reads: upgrade it"
        )
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        raise CorruptionError(f"{where} cannot be read: {explain(error, Record)}") from error
    if record.protocol.protocol_id != record.protocol_id:
        raise CorruptionError(f"{where}: its protocol does not hash to its protocol_id")
    assert isinstance(content, dict)
    if record.record_sha256 not in {None, record_digest(content)}:
        raise CorruptionError(
            f"{where} ({record.display}) was edited: it does not hash to its record_sha256;"
            " score it again"
        )
    if record.is_sealed:
        return record
    return record.model_copy(update={"notes": (*record.notes, UNSEALED)})


def by_samples(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each set of samples, in the order of their first ones."""
    sets: dict[bytes, list[Record]] = {}
    for record in records:
        about = [record.samples.get(key) for key in _OF_SAMPLES]
        sets.setdefault(canonical_json(about), []).append(record)
    return list(sets.values())
