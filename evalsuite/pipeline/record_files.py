"""Files of records, which comparisons, boards and checks read in one way."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from evalsuite.artifacts.records import RECORD_SCHEMA, UNSEALED, Record, record_digest
from evalsuite.artifacts.run_directory import is_run
from evalsuite.artifacts.storage import Place, open_storage, place_seen_from
from evalsuite.config import canonical_json, explain, parse_json
from evalsuite.errors import CorruptionError, DataError, EvalsuiteError

P = TypeVar("P", bound=Place)
Tell = Callable[[str], None]
"""Is told in one line what a sweep or a watch refers to, and cannot be reached or read."""
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


class _Own(NamedTuple):
    """What boards, sweeps and watches keep in a folder.

    Attributes:
        names: of their files and folders, which hold no record.
        runs: that a sweep or a watch refers to, whether they are there or not.
        refers: whether there is a sweep or a watch.
    """

    names: frozenset[str]
    runs: tuple[Place, ...]
    refers: bool


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


def nobody(line: str) -> None:
    """Who need not be told."""


def inputs_of(path: Path, tell: Tell = nobody) -> list[Place]:
    """A file or a run itself; of another folder its runs with results, and JSON files outside runs.

    Runs are found at any depth, behind links too, and those that a sweep or a watch refers to; in a
    run nothing but its results is a record, and what boards, sweeps and watches keep for themselves
    is none. Each is given once.

    Args:
        path: of all of that.
        tell: is told of runs that cannot be reached, which are left out.

    Returns:
        Empty where there are runs, sweeps or watches, and no run has results yet.

    Raises:
        DataError: there is nothing, or no run, sweep, watch or JSON file, or a folder that cannot
            be listed.
    """
    if path.is_file() or is_run(path):
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist: give files of records, or a folder of them")
    found, is_waited_for = _inputs_in(path, tell)
    if not found and not is_waited_for:
        raise DataError(f"{path} holds no JSON file: give records, or a folder of them")
    return found


def _inputs_in(folder: Path, tell: Tell) -> tuple[list[Place], bool]:
    """What the folder holds, and whether there is a run, a sweep or a watch in it."""
    found: list[Place] = []
    seen: set[str] = set()
    is_waited_for = False
    for where, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        here, real = Path(where), os.path.realpath(where)
        if real in seen or "manifest.json" in names:
            found += [here] if real not in seen and _results_of(here) else []
            is_waited_for = True
            folders.clear()
        else:
            own = _own_in(here, names, tell)
            kept = [name for name in names if name.endswith(".json") and name not in own.names]
            found += [here / name for name in kept]
            found += [run for run in own.runs if _is_scored(run, tell)]
            folders[:] = sorted(name for name in folders if name not in own.names)
            is_waited_for = is_waited_for or own.refers
        seen.add(real)
    return each_once(sorted(found, key=lambda one: str(one).split("/"))), is_waited_for


def each_once(places: Iterable[P]) -> list[P]:
    """Without those that lie where an earlier one does, as by a link or a path through `..`."""
    found: dict[str, P] = {}
    for place in places:
        found.setdefault(os.path.realpath(place) if isinstance(place, Path) else str(place), place)
    return list(found.values())


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error


def _own_in(folder: Path, names: Iterable[str], tell: Tell) -> _Own:
    own: set[str] = set()
    runs: list[Place] = []
    refers = False
    for marker in _OWN.keys() & set(names):
        key, theirs = _OWN[marker]
        try:
            content = _parsed(folder / marker)
        except DataError:  # it is told of as any other file
            continue
        if isinstance(content, dict) and key in content:
            own |= theirs
            refers = refers or marker != BOARD
            runs += _places_from(folder, _referred(folder, marker, content, tell), tell)
    return _Own(frozenset(own), tuple(runs), refers)


def _referred(folder: Path, marker: str, content: Mapping[str, Any], tell: Tell) -> list[str]:
    """Runs as a sweep names them in its two files, and a watch in the file of each checkpoint."""
    parts: list[Any] = []
    if marker == SWEEP:
        configurations = content.get("configurations")
        parts += configurations if isinstance(configurations, list) else []
        results = _readable(folder.glob("result.json"), tell)
        parts += [result.get("fresh") for result in results if isinstance(result, dict)]
    elif marker == WATCH:
        parts += _readable(sorted((folder / "checkpoints").glob("*.json")), tell)
    runs = [part.get("run") for part in parts if isinstance(part, dict)]
    return [run for run in runs if isinstance(run, str)]


def _readable(paths: Iterable[Path], tell: Tell) -> Iterator[Any]:
    for path in paths:
        try:
            yield _parsed(path)
        except DataError:
            tell(f"the run that {path} names, which is not JSON: the command that made it heals it")


def _places_from(folder: Path, runs: Iterable[str], tell: Tell) -> Iterator[Place]:
    """As a sweep or a watch in the folder refers to them."""
    for run in runs:
        try:
            yield place_seen_from(folder, run)
        except EvalsuiteError as error:
            tell(f"{run}: {error}")


def _is_scored(run: Place, tell: Tell) -> bool:
    """Whether a run that something else refers to is there, with results."""
    try:
        if not is_run(run):
            tell(f"{run}: there is no run")
            return False
        return bool(open_storage(run).names("results", ".json"))
    except EvalsuiteError as error:
        tell(f"{run}: {error}")
        return False


def files_of(path: Path, tell: Tell = nobody) -> list[Path]:
    """The files of `inputs_of`: of each run its results, where it has any.

    Raises:
        DataError: as `inputs_of`.
    """
    found: list[Path] = []
    for one in inputs_of(path, tell):
        if isinstance(one, Path):
            found += _results_of(one) if one.is_dir() else [one]
        else:
            tell(f"{one}: it lies in an object store, and files of this machine are read")
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
