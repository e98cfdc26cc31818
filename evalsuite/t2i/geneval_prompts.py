"""GenEval's metadata: what each prompt asks for, read from one JSON object a line and checked."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, model_validator

from evalsuite.config import Frozen, canonical_json, explain, parse_json
from evalsuite.errors import StorageError, UsageError

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""Of the published prompts, in the order of every table."""
_MISTAKEN = 0.8
"""How like a published tag another may be: `countign` is no tag of its own (difflib's ratio)."""
LONGEST_PROMPT = 10_000
"""Characters; what is longer is a file taken for a prompt."""
Relation = Literal["left of", "right of", "above", "below"]


class Clause(Frozen):
    """Objects that must be there."""

    class_name: str = Field(alias="class", min_length=1)
    count: int = Field(ge=1)
    color: str | None = None
    position: tuple[Relation, int] | None = None
    """The relation, and the place of the clause whose objects it refers to."""


class Exclusion(Frozen):
    """A number of objects that must not be reached."""

    class_name: str = Field(alias="class", min_length=1)
    count: int = Field(ge=1)


class _Metadata(Frozen):
    """The fields of a record that decide a verdict; others are kept, and ignored."""

    model_config = ConfigDict(extra="ignore")
    tag: str = Field(min_length=1)
    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT)
    include: tuple[Clause, ...] = Field(min_length=1)
    exclude: tuple[Exclusion, ...] = ()

    @model_validator(mode="after")
    def _refer_backwards(self) -> "_Metadata":
        for place, clause in enumerate(self.include):
            if clause.position is not None and not 0 <= clause.position[1] < place:
                raise ValueError(
                    f"position of include.{place} refers to clause {clause.position[1]}, which must"
                    " be an earlier one"
                )
        return self


@dataclass(frozen=True)
class GenevalPrompt:
    """One prompt and what its images must show."""

    tag: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Exclusion, ...]
    record: dict[str, Any]
    """As it was read, for the official layout."""

    @property
    def key(self) -> str:
        """What the official summary groups images by: the whole record."""
        return json.dumps(self.record, sort_keys=True)

    @property
    def meaning(self) -> str:
        """All that decides a verdict, as JSON: a seed or a file's name in the record does not."""
        said: dict[str, Any] = {"tag": self.tag, "prompt": self.prompt}
        said["include"] = [_shown(clause) for clause in self.include]
        if self.exclude:
            said["exclude"] = [_shown(exclusion) for exclusion in self.exclude]
        return canonical_json(said).decode()

    @property
    def asks_color(self) -> bool:
        """Whether a colour classifier is needed."""
        return any(clause.color is not None for clause in self.include)


def _shown(part: Frozen) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)


class _Line(NamedTuple):
    number: int
    text: str


def parse_geneval_prompt(record: object, where: str) -> GenevalPrompt:
    """One record.

    Raises:
        UsageError: it asks for nothing, or in a form that is not GenEval's.
    """
    if not isinstance(record, dict):
        raise UsageError(f"{where} is no JSON object, so it is no GenEval metadata")
    try:
        metadata = _Metadata.model_validate(record)
    except ValidationError as error:
        raise UsageError(f"{where}: {explain(error, _Metadata)}") from error
    return GenevalPrompt(
        metadata.tag, metadata.prompt, metadata.include, metadata.exclude, dict(record)
    )


def check_words(
    prompts: Iterable[GenevalPrompt], classes: Sequence[str], colors: Sequence[str], most: int
) -> None:
    """Raise UsageError when a prompt asks for what no image can be found to show.

    A tag may be any word, but none that is nearly one of GenEval's: thresholds go by them.

    Args:
        prompts: that are to be judged.
        classes: that the detector knows.
        colors: that the classifier of colours may answer.
        most: objects of one class that are counted in an image.
    """
    for prompt in prompts:
        clauses: list[Clause | Exclusion] = [*prompt.include, *prompt.exclude]
        for clause in prompt.include:  # one too many to exclude may be more than are counted
            if clause.count > most:
                raise UsageError(
                    f"the metadata of {prompt.prompt[:60]!r} has a count of {clause.count}, but of"
                    f" one class {most} objects are counted at most"
                )
        words: list[tuple[str, str, Sequence[str]]] = []
        if difflib.get_close_matches(prompt.tag, TAGS, 1, _MISTAKEN):
            words.append(("tag", prompt.tag, TAGS))
        words += [("object", clause.class_name, classes) for clause in clauses]
        words += [("colour", one.color, colors) for one in prompt.include if one.color is not None]
        for what, word, known in words:
            if word not in known:
                near = difflib.get_close_matches(word, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UsageError(
                    f"the metadata of {prompt.prompt[:60]!r} has the {what} {word!r}, which this"
                    f" scorer does not know{hint}"
                )


def read_geneval_prompts(path: Path) -> tuple[GenevalPrompt, ...]:
    """The prompts of a metadata file, each once.

    Raises:
        StorageError: the file cannot be read.
        UsageError: a line is not GenEval's metadata, a record is there twice, or there is none.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})") from error
    lines = [_Line(n, t) for n, t in enumerate(content.split("\n"), start=1) if t.strip()]
    prompts = tuple(_parsed(line, path) for line in lines)
    if not prompts:
        raise UsageError(f"{path} holds no prompt")
    _refuse_twice(prompts, lines, path)
    return prompts


def _parsed(line: _Line, path: Path) -> GenevalPrompt:
    where = f"{path} line {line.number}"
    try:
        record = parse_json(line.text)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON: {error}") from error
    return parse_geneval_prompt(record, where)


def _refuse_twice(prompts: Sequence[GenevalPrompt], lines: Sequence[_Line], path: Path) -> None:
    seen: dict[str, int] = {}
    for prompt, line in zip(prompts, lines, strict=True):
        if prompt.prompt in seen:
            raise UsageError(
                f"{path} line {line.number} repeats the prompt of line {seen[prompt.prompt]}: the"
                " images of both would count as one prompt's"
            )
        seen[prompt.prompt] = line.number
