"""Files of JSON lines with what a scorer said of each image, by which everything is summed up.

The first line says what decided the rows. A file is written whole, once all rows are there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalsuite.artifacts.storage import Place, open_storage
from evalsuite.config import parse_json
from evalsuite.errors import CorruptionError, DataError, StorageError, UsageError
from evalsuite.pipeline.row_shapes import check_benchmark, check_shapes, damaged

SCHEMA = 2
TESTED_BY = "tested_by"
"""What the judge was tested on: said in the first line, and decides no row."""
CSV_BLOB = "csv_git_blob"
"""Git's name of DPG-Bench's csv, whose SHA-256 decides rows: said as well, and decides none."""
_SAID = {TESTED_BY, CSV_BLOB}


def write_rows(place: Place, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows, in place of an older file that says anything else.

    One that says just this may lie where nobody may write.

    Raises:
        StorageError: it cannot be written.
    """
    lines = [{"schema": SCHEMA, **header}, *rows]
    text = "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in lines)
    storage, content = open_storage(place.parent), text.encode()
    if storage.find(place.name) != content:
        storage.replace(place.name, content)


def is_written(place: Place, header: Mapping[str, Any]) -> bool:
    """Whether a file of these rows is there.

    Raises:
        UsageError: the file holds the rows of another scoring; the line names what differs.
        CorruptionError: it cannot be read.
    """
    if not open_storage(place.parent).exists(place.name):
        return False
    wanted = json.loads(json.dumps({"schema": SCHEMA, **header}))
    there, rows = _read(place)
    differing = _differing(there, wanted, _SAID)
    if differing:
        raise UsageError(
            f"{place} holds rows of another scoring, by other {', '.join(differing)}: give another"
            " --output"
        )
    return len(rows) == int(wanted["num_images"])


def read_rows(place: Place) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows.

    Raises:
        DataError: rows are missing.
        CorruptionError: a line is damaged, one too many, or of an image that another is of.
    """
    header, rows = _read(place)
    wanted = header.get("num_images")
    if type(wanted) is not int or wanted < 0:  # true is an int, too
        said = json.dumps(wanted)[:60]
        raise damaged(place, 1, f"num_images is {said}, which is no number of images")
    if len(rows) > wanted:
        raise damaged(place, wanted + 2, f"it is one more than num_images, which is {wanted}")
    if len(rows) < wanted:
        raise DataError(
            f"{place} holds {len(rows)} rows of {wanted}: run the same command again to make the"
            " others"
        )
    check_shapes(header, rows, place)
    return header, rows


def read_both(a: Place, b: Place) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of two files that may be compared: all but their images is equal.

    Raises:
        DataError: rows are missing, or were made by something else.
    """
    (head_a, rows_a), (head_b, rows_b) = (read_rows(place) for place in (a, b))
    differing = _differing(head_a, head_b, _SAID | {"source"})
    if differing:
        raise DataError(f"{a} and {b} were judged by other {', '.join(differing)}: no comparison")
    return rows_a, rows_b


def protocol_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """What decided the rows, apart from the images."""
    return {k: v for k, v in header.items() if k not in {"schema", "source", *_SAID}}


def test_of(place: Place) -> dict[str, Any] | None:
    """What the judge of a file's rows was tested on; None where on nothing, or no file is there.

    A damaged file is none: it is about to be written again.
    """
    if not open_storage(place.parent).exists(place.name):
        return None
    try:
        found: dict[str, Any] | None = _read(place)[0].get(TESTED_BY)
    except DataError:
        return None
    return found


def benchmark_of(place: Place) -> str:
    """Which benchmark a file's rows are of.

    Raises:
        CorruptionError: it cannot be read, or is of none that is known.
    """
    return check_benchmark(_read(place)[0], place)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], apart: set[str]) -> list[str]:
    return [key for key in {**a, **b} if key not in apart and a.get(key) != b.get(key)]


def _read(place: Place) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows; blank lines at the end hold none."""
    content = open_storage(place.parent).find(place.name)
    if content is None:
        is_folder = isinstance(place, Path) and place.is_dir()
        words = "it is a folder, not a file of rows" if is_folder else "there is no such file"
        raise StorageError(f"cannot read {place}: {words}")
    lines = [_object(line, f"{place} line {n}") for n, line in enumerate(_lines(content), 1)]
    if not lines or "schema" not in lines[0]:
        raise CorruptionError(f"{place} does not begin with what its rows were made by: remove it")
    if lines[0]["schema"] != SCHEMA:
        raise DataError(f"{place} has schema {lines[0]['schema']}, this evalsuite reads {SCHEMA}")
    return lines[0], lines[1:]


def _lines(content: bytes) -> list[bytes]:
    """Those that are there whole: of the last, a cut one is left out, and is no JSON object.

    An editor may have taken its end, or added blank lines.
    """
    text = content.rstrip()
    *whole, last = text.split(b"\n")
    is_whole = (last and b"\n" in content[len(text) :]) or _is_object(last)
    return [*whole, last] if is_whole else whole


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line.decode()), dict)
    except ValueError:
        return False


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = parse_json(line.decode())
    except ValueError as error:
        raise CorruptionError(f"{where} is not JSON: {error}; remove the file") from error
    if not isinstance(found, dict):
        raise CorruptionError(f"{where} is no JSON object: remove the file")
    return found
