"""A file of JSON lines that grows as images are judged, and goes on where it stopped.

The first line says what decides the rows; another invocation appends to it only when all of that is
equal. What was not written to its end is dropped, and so is a portion that is not whole: images are
computed together in fixed portions, so that a stopped scoring gives the same bits.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evalsuite.errors import CorruptionError, DataError, StorageError, UsageError

SCHEMA = 1


class RowFile:
    """The rows of one scoring, by their order."""

    def __init__(
        self, path: Path, header: Mapping[str, Any], *, portion: int = 1, total: int = 0
    ) -> None:
        """Open for appending.

        Args:
            path: the file, there or not.
            header: what decides the rows.
            portion: rows that are made together.
            total: rows of a finished file, which keeps its last portion whatever its size.

        Raises:
            UsageError: the file holds the rows of another scoring; the line names what differs.
            CorruptionError: it cannot be read.
            StorageError: it cannot be written.
        """
        self.path = path
        self.header = {"schema": SCHEMA, **header}
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            there, self.rows, num_bytes = _read(path)
            differing = [k for k in {**there, **self.header} if there.get(k) != self.header.get(k)]
            if differing:
                raise UsageError(
                    f"{path} holds rows of another scoring, by other {', '.join(differing)}: give"
                    " another --output"
                )
            self._drop_after(num_bytes, portion, total)
        else:
            self._append([self.header], "x")

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and flush them to the disk."""
        added = [dict(row) for row in rows]
        self._append(added, "a")
        self.rows += added

    def _drop_after(self, num_bytes: int, portion: int, total: int) -> None:
        if len(self.rows) != total and len(self.rows) % portion:
            self.rows = self.rows[: -(len(self.rows) % portion)]
            lines = self.path.read_bytes().split(b"\n")[: len(self.rows) + 1]
            num_bytes = sum(len(line) + 1 for line in lines)
        _explained(self.path, lambda: os.truncate(self.path, num_bytes))

    def _append(self, rows: Iterable[Mapping[str, Any]], mode: str) -> None:
        text = "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)

        def write() -> None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

        _explained(self.path, write)


def read_rows(path: Path, num_rows: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows of a finished file.

    Args:
        path: of a `RowFile`.
        num_rows: field of the header that says how many rows there are to be.

    Raises:
        DataError: rows are missing.
        CorruptionError: it cannot be read.
    """
    header, rows, _ = _read(path)
    if len(rows) != header.get(num_rows):
        raise DataError(
            f"{path} holds {len(rows)} rows of {header.get(num_rows)}: run the same command again"
            " to make the others"
        )
    return header, rows


def read_both(a: Path, b: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of two finished files that may be compared: all but their images is equal.

    Raises:
        DataError: rows are missing, or were made by something else.
    """
    (head_a, rows_a), (head_b, rows_b) = (read_rows(path, "num_images") for path in (a, b))
    differing = [
        k for k in {**head_a, **head_b} if k != "source" and head_a.get(k) != head_b.get(k)
    ]
    if differing:
        raise DataError(f"{a} and {b} were judged by other {', '.join(differing)}: no comparison")
    return rows_a, rows_b


def benchmark_of(path: Path) -> str:
    """Which benchmark a file's rows are of.

    Raises:
        CorruptionError: it cannot be read.
    """
    return str(_read(path)[0].get("benchmark"))


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Header, rows, and how many bytes they fill; a last line without its end is left out."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    whole = content[: content.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise CorruptionError(f"{path} is not JSON lines: {error}; remove it") from error
    if not lines or not all(isinstance(line, dict) for line in lines) or "schema" not in lines[0]:
        raise CorruptionError(f"{path} does not begin with what its rows were made by: remove it")
    if lines[0]["schema"] != SCHEMA:
        raise DataError(f"{path} has schema {lines[0]['schema']}, this evalsuite reads {SCHEMA}")
    return lines[0], lines[1:], len(whole)


def _explained(path: Path, action: Any) -> None:  # noqa: ANN401 - a call without arguments
    try:
        action()
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
