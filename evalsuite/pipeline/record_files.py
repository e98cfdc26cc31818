"""Files of records, which comparisons, boards and checks read in one way."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.artifacts.records import Record
from evalsuite.config import canonical_json
from evalsuite.errors import DataError


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


def files_of(path: Path) -> list[Path]:
    """A file itself; of a run its results; of another folder all its JSON files.

    Raises:
        DataError: there is nothing, or no JSON file.
    """
    if path.is_dir():
        folder = path / "results" if (path / "manifest.json").is_file() else path
        files = sorted(folder.rglob("*.json"))
        if not files:
            raise DataError(f"{folder} holds no JSON file: give records, or a folder of them")
        return files
    if not path.is_file():
        raise DataError(f"{path} does not exist: give files of records, or a folder of them")
    return [path]


def written_in(path: Path) -> list[Written]:
    """What a file holds: one record, or what `--json` of `run` or `evaluate` wrote.

    Raises:
        DataError: it is not JSON, or a list of records in it is empty.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: give a run, or a file that --json wrote") from error
    if not isinstance(content, dict) or not {"records", "runs"} & content.keys():
        return [Written(content, str(path), path.name)]
    found = [Written(one, f"{path}, record {at}", None) for at, one in enumerate(_listed(content))]
    if not found:
        raise DataError(f"{path} holds no records: give what `evalsuite evaluate --json` wrote")
    return found


def _listed(content: dict[str, Any]) -> Iterator[object]:
    """Records of the file; of several runs those of each, the first of which stands above too."""
    for part in content.get("runs") or [content]:
        records = part.get("records") if isinstance(part, dict) else None
        yield from records if isinstance(records, list) else ()


def by_samples(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each set of samples, in the order of their first ones."""
    sets: dict[bytes, list[Record]] = {}
    for record in records:
        about = [record.samples.get(key) for key in ("plan_id", "model", "path")]
        sets.setdefault(canonical_json(about), []).append(record)
    return list(sets.values())
