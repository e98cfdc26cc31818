"""Prompts and prompt files: one a line, JSON lines with `prompt`, or CSV with a `prompt` column.

DPG-Bench's csv of questions is taken too: each item's `text` once, in the order of the file.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from evalsuite.config import canonical_json, parse_json
from evalsuite.errors import StorageError, UsageError

_QUESTIONS = ("item_id", "text", "proposition_id")
"""Columns by which DPG-Bench's csv is known."""
_CONTROL = frozenset(map(chr, (*range(32), *range(127, 160)))) - frozenset("\t\n\r")
_CONTROL |= frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""No tokenizer means them; a terminal obeys them: C0, C1, and what turns the order of letters."""


class Prompt(NamedTuple):
    """A text and the side of the guidance that it is for."""

    text: str
    negative: bool = False


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a .txt, .jsonl or .csv file, in its order, character for character.

    A .txt file has one prompt a line; only the line's end is taken off.

    Raises:
        StorageError: the file cannot be read.
        UsageError: another ending, no prompt at all, or a bad line, which is named by its number.
    """
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".csv": _csv_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"prompt file {path}: give a {', '.join(readers)} file")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise StorageError(f"cannot read prompt file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"prompt file {path} is not UTF-8 (byte {error.start})") from error
    prompts = []
    for line, value in reader(content, path):
        prompts.append(check_prompt(value, f"{path} line {line}"))
    if not prompts:
        raise UsageError(f"prompt file {path} holds no prompt")
    return tuple(prompts)


def check_prompt(value: object, where: str) -> str:
    """`value` when it is a text that a tokenizer takes and that is not blank.

    Raises:
        UsageError: it is not; the line starts with `where`.
    """
    if not isinstance(value, str):
        raise UsageError(f"{where}: no text under 'prompt'")
    if not value.strip():
        raise UsageError(f"{where}: the prompt is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: character {error.start} of the prompt is no Unicode") from error
    control = next((i for i, c in enumerate(value) if c in _CONTROL), None)
    if control is not None:
        raise UsageError(
            f"{where}: character {control} of the prompt is the control character"
            f" {value[control]!r}: take it out"
        )
    return value


def prompts_sha256(prompts: Sequence[str]) -> str:
    """SHA-256 of the prompts in their order, whatever file they came from."""
    return hashlib.sha256(canonical_json(list(prompts))).hexdigest()


def _text_lines(content: str, path: Path) -> Iterator[tuple[int, object]]:
    for number, line in _numbered(content):
        if "\r" in line:
            raise UsageError(
                f"{path} line {number} has a carriage return within it: end each line with a line"
                " feed"
            )
        yield number, line


def _json_lines(content: str, path: Path) -> Iterator[tuple[int, object]]:
    for number, line in _numbered(content):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise UsageError(f"{path} line {number} is not JSON: {error}") from error
        yield number, record.get("prompt") if isinstance(record, dict) else None


def _csv_rows(content: str, path: Path) -> Iterator[tuple[int, object]]:
    rows = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    names = rows.fieldnames or ()
    of_questions = "prompt" not in names and {*_QUESTIONS} <= set(names)
    _check_names(names, path)
    seen: set[str | None] = set()
    try:
        if content and "prompt" not in names and not of_questions:
            raise UsageError(f"{path} line 1: no column is named 'prompt'")
        for row in rows:
            if None in row:
                raise UsageError(f"{path} line {rows.line_num}: more fields than columns")
            if not of_questions:
                yield rows.line_num, row["prompt"]
            elif row["item_id"] not in seen:
                seen.add(row["item_id"])
                yield rows.line_num, (row["text"] or "").strip()
    except csv.Error as error:
        raise UsageError(f"{path} line {rows.line_num + 1} is not CSV: {error}") from error


def _check_names(names: Sequence[str], path: Path) -> None:
    """Raise UsageError where two columns have one name: which is meant, the file does not say."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"{path} line 1: two columns are named {twice[0]!r}")


def _numbered(content: str) -> Iterable[tuple[int, str]]:
    """Lines from 1 on without their ends; only a line feed ends a line."""
    lines = content.removesuffix("\n").split("\n") if content else []
    return ((number, line.removesuffix("\r")) for number, line in enumerate(lines, start=1))
