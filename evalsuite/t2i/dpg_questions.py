"""DPG-Bench's questions: the csv, the graph of each item, and its reading by the original.

Source: DPG-Bench (ELLA, Hu et al. 2024) and its published scorer, commit 3c228f1.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.errors import DataError, StorageError, UsageError

_COLUMNS = (
    "item_id",
    "text",
    "proposition_id",
    "dependency",
    "tuple",
    "question_natural_language",
)
_MOST_DIGITS = 18
"""Of a number of a question."""
L1 = ("entity", "attribute", "relation", "global", "other")
"""In the order of every table."""


class Question(NamedTuple):
    """One question about one item."""

    question_id: int
    parents: tuple[int, ...]
    """Questions without which this one makes no sense; 0, "none", is left out."""
    category: str
    """L2, such as `attribute - color`: the text of the tuple before its bracket."""
    text: str

    @property
    def broad(self) -> str:
        """L1: the part of the category before the dash."""
        return self.category.partition("-")[0].strip()


class Item(NamedTuple):
    """A prompt and its questions, in the order of the csv."""

    item_id: str
    prompt: str
    questions: tuple[Question, ...]

    @property
    def texts(self) -> dict[int, str]:
        """What is asked, each question once: the last, where one is there twice, as published."""
        return {question.question_id: question.text for question in self.questions}


class Row(NamedTuple):
    """One line of the csv."""

    line: int
    item_id: str
    prompt: str
    question: Question


def read_dpg_rows(path: Path) -> tuple[Row, ...]:
    """Every question of a csv, in its order.

    Raises:
        StorageError: the file cannot be read.
        UsageError: a column is missing, a row has other fields than columns or asks nothing, a
            number is none, or there is no row; the line is named.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})") from error
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        names = reader.fieldnames or ()
        missing = sorted(set(_COLUMNS) - set(names))
        if missing:
            raise UsageError(
                f"{path} line 1 has no column {missing[0]!r}: it is not DPG-Bench's dpg_bench.csv"
            )
        twice = [name for name in _COLUMNS if names.count(name) > 1]
        if twice:
            raise UsageError(f"{path} line 1: two columns are named {twice[0]!r}")
        rows = tuple(
            _row(record, f"{path} line {reader.line_num}", reader.line_num) for record in reader
        )
    except csv.Error as error:
        raise UsageError(f"{path} line {reader.line_num + 1} is not CSV: {error}") from error
    if not rows:
        raise UsageError(f"{path} holds no question")
    return rows


def _row(record: Mapping[str | None, Any], where: str, line: int) -> Row:
    if None in record or None in record.values():
        what = "more" if None in record else "fewer"
        raise UsageError(f"{where} has {what} fields than columns: quote texts that hold a comma")
    texts = {name: record[name].strip() for name in _COLUMNS}
    for name in ("item_id", "question_natural_language"):
        if not texts[name]:
            raise UsageError(f"{where} has no {name}")
    question = Question(
        _whole(texts["proposition_id"], "proposition_id", where),
        _parents(texts["dependency"], where),
        texts["tuple"].partition("(")[0].strip(),
        texts["question_natural_language"],
    )
    if not question.category:
        raise UsageError(f"{where} has no category before the bracket of its tuple")
    return Row(line, texts["item_id"], texts["text"], question)


def _parents(text: str, where: str) -> tuple[int, ...]:
    numbers = [_whole(part.strip(), "dependency", where) for part in text.split(",")]
    return tuple(number for number in numbers if number != 0)


def _whole(text: str, what: str, where: str) -> int:
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise UsageError(
            f"{where}: {what} {text[:60]!r} is no whole number of {_MOST_DIGITS} digits at most"
        )
    return int(text)


def items_as_published(rows: Sequence[Row], *, skip_first: bool = True) -> dict[str, Item]:
    """The items as the original reads them, faults included.

    It skips the first row, of an item whose rows are not together only the last block counts, and
    of a question that is given twice only the last.

    Args:
        rows: of the csv.
        skip_first: false repairs the first fault alone.
    """
    items: dict[str, Item] = {}
    before = None
    for row in rows[1:] if skip_first else rows:
        old: tuple[Question, ...] = ()
        if row.item_id == before:
            old = items[row.item_id].questions
        kept = {q.question_id: q for q in old} | {row.question.question_id: row.question}
        items[row.item_id] = Item(row.item_id, row.prompt, tuple(kept.values()))
        before = row.item_id
    return items


def items_as_they_are(rows: Sequence[Row]) -> dict[str, Item]:
    """All items with all their questions, wherever their rows stand and whatever is wrong."""
    questions: dict[str, list[Question]] = {}
    prompts: dict[str, str] = {}
    for row in rows:
        questions.setdefault(row.item_id, []).append(row.question)
        prompts.setdefault(row.item_id, row.prompt)
    return {name: Item(name, prompts[name], tuple(asked)) for name, asked in questions.items()}


def items_of(rows: Sequence[Row]) -> dict[str, Item]:
    """All items with all their questions, wherever their rows stand.

    Raises:
        DataError: a question is there twice, or its parents are unknown or go round in a circle.
    """
    items = items_as_they_are(rows)
    for item in items.values():
        parents_first(item)
    return items


def parents_first(item: Item) -> tuple[Question, ...]:
    """The questions in an order in which every parent comes before its children.

    Raises:
        DataError: a parent is unknown, a question depends on itself, or is there twice.
    """
    by_id: dict[int, Question] = {}
    for question in item.questions:
        if by_id.setdefault(question.question_id, question) is not question:
            raise DataError(
                f"question {question.question_id} of {item.item_id} is there twice: which of the"
                " two is meant, the file does not say"
            )
    for question in item.questions:
        unknown = [parent for parent in question.parents if parent not in by_id]
        if unknown:
            raise DataError(
                f"question {question.question_id} of {item.item_id} depends on question"
                f" {unknown[0]}, which is not there: the file is cut, or of another version"
            )
    ordered: dict[int, Question] = {}
    while len(ordered) < len(by_id):
        ready = [
            q
            for q in by_id.values()
            if q.question_id not in ordered and ordered.keys() >= set(q.parents)
        ]
        if not ready:
            left = sorted(by_id.keys() - ordered.keys())
            raise DataError(f"questions {left} of {item.item_id} depend on each other in a circle")
        ordered |= {q.question_id: q for q in ready}
    return tuple(ordered.values())
