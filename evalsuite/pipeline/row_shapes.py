"""What rows of each benchmark must hold: a damaged file of them is an error that names the line."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from evalsuite.artifacts.storage import Place
from evalsuite.config import Frozen, explain
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.pipeline.kept_objects import otherwise_kept, wrongly_kept
from evalsuite.pipeline.prompt_digests import geneval_prompts_sha256, scored_prompts_sha256
from evalsuite.t2i.clustered import LARGEST_SCORE
from evalsuite.t2i.detections import FARTHEST, Detection, Detections
from evalsuite.t2i.geneval import RULES_VERSION, GenevalOptions, judge
from evalsuite.t2i.geneval_prompts import GenevalPrompt, parse_geneval_prompt
from evalsuite.t2i.judges import RULES_VERSION as DPG_RULES_VERSION

_Count = Annotated[int, Field(ge=0, strict=True)]
_Version = Annotated[int, Field(ge=1, strict=True)]
_Edge = Annotated[float, Field(strict=True, ge=-FARTHEST, le=FARTHEST)]
_Bounded = Annotated[float, Field(strict=True, ge=-LARGEST_SCORE, le=LARGEST_SCORE)]
_Bool = Annotated[bool, Field(strict=True)]


def _as_written(text: str) -> str:
    """01 would be a second answer to question 1."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and str(int(text)) == text):
        raise ValueError("it must be a whole number without zeros before it")
    return text


_Number = Annotated[str, AfterValidator(_as_written)]
_Pair = Annotated[list[_Count], Field(min_length=2, max_length=2)]
_Box = Annotated[list[_Edge], Field(min_length=4, max_length=4)]


class _Open(Frozen):
    """Types as JSON has them; what is not named here decides nothing here."""

    model_config = ConfigDict(extra="ignore")


class _Detector(_Open):
    kind: str


class _GenevalHeader(_Open):
    source: str
    rules_version: _Version = RULES_VERSION
    """Absent in files of earlier versions, whose rules were these."""
    prompts_sha256: str
    options: GenevalOptions
    detector: _Detector
    colors: dict[str, Any] | None

    @model_validator(mode="after")
    def _says_every_option(self) -> "_GenevalHeader":
        missing = GenevalOptions.model_fields.keys() - self.options.model_fields_set
        if missing:
            raise ValueError(f"options lack {min(missing)}")
        return self


class _Detection(_Open):
    class_name: str = Field(alias="class")
    score: Annotated[float, Field(strict=True, ge=0, le=1)]
    box: _Box
    mask: list[_Count] | None

    @model_validator(mode="after")
    def _is_a_box(self) -> "_Detection":
        x1, y1, x2, y2 = self.box
        if x2 < x1 or y2 < y1:
            raise ValueError(f"box {self.box} ends before it begins")
        return self


class _GenevalRow(_Open):
    prompt: dict[str, Any]
    number: _Count
    size: _Pair
    tag: str
    correct: _Bool
    reasons: list[str]
    kept: dict[str, list[_Count]]
    colors: dict[_Number, list[str]]
    detections: list[_Detection]

    @model_validator(mode="after")
    def _agree(self) -> "_GenevalRow":
        if self.correct == bool(self.reasons):
            raise ValueError(f"correct is {self.correct}, with {len(self.reasons)} reasons")
        if self.tag != self.prompt.get("tag", self.tag):
            raise ValueError(f"tag is {self.tag!r}, its prompt's is {self.prompt['tag']!r}")
        pixels = self.size[0] * self.size[1]
        for place, one in enumerate(self.detections):
            if one.mask is not None and sum(one.mask) != pixels:
                raise ValueError(
                    f"mask of detection {place} is of {sum(one.mask)} pixels, not {pixels}"
                )
        return self

    @model_validator(mode="after")
    def _refer_to_what_is_there(self) -> "_GenevalRow":
        places = [place for kept in self.kept.values() for place in kept]
        if places and max(places) >= len(self.detections):
            raise ValueError(f"kept names detection {max(places)} of {len(self.detections)}")
        return self


class _Judge(_Open):
    name: str


class _DpgHeader(_Open):
    source: str
    rules_version: _Version = DPG_RULES_VERSION
    csv_sha256: str
    csv_git_blob: str | None = None
    """None in files of earlier versions."""
    judge: _Judge


class _Question(_Open):
    id: _Count
    parents: list[_Count]
    category: str
    text: str


class _DpgRow(_Open):
    item_id: str
    number: _Count
    answers: dict[_Number, str]
    prompt: str | None = None
    questions: list[_Question] | None = None

    @model_validator(mode="after")
    def _says_what_was_asked_once(self) -> "_DpgRow":
        if self.number == 0:
            if self.prompt is None or self.questions is None:
                raise ValueError("the first image of an item is without prompt or questions")
            if {str(one.id) for one in self.questions} != self.answers.keys():
                raise ValueError("questions are others than were answered")
        return self


class _Score(_Open):
    name: str | None = None
    command: list[str] | None = None

    @model_validator(mode="after")
    def _has_one(self) -> "_Score":
        if not self.name and not self.command:
            raise ValueError("neither name nor command")
        return self


class _ScoresHeader(_Open):
    source: str
    prompts_sha256: str
    scorer: _Score


class _ScoresRow(_Open):
    prompt: str
    category: str | None
    number: _Count
    score: _Bounded


def _check_geneval(
    header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], place: Place
) -> None:
    prompts: list[GenevalPrompt] = []
    options = GenevalOptions.model_validate(header["options"])
    ours = _are_ours(header, RULES_VERSION, place)
    for line, row in enumerate(rows, start=2):
        try:
            prompt = parse_geneval_prompt(row["prompt"], "its prompt")
        except UsageError as error:
            raise damaged(place, line, str(error)) from error
        clauses = len(prompt.include)
        if any(int(clause) not in range(clauses) for clause in row["colors"]):
            raise damaged(place, line, f"colors of a clause that is none of the {clauses}")
        wrong = wrongly_kept(row, options)
        if ours:
            wrong = wrong or otherwise_kept(row, options) or _other_verdict(row, prompt, options)
        if wrong:
            raise damaged(place, line, wrong)
        prompts.append(prompt)
    images = [
        _Image(prompt.key, repr(prompt.prompt[:60]), row["number"])
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    _refuse_twice(images, place)
    _refuse_uneven(images, place)
    _refuse_uneven_folders(prompts, place)
    if "rules_version" in header:  # files of earlier versions have another digest
        _refuse_other_prompts(header, geneval_prompts_sha256(prompts), place)


def _are_ours(header: Mapping[str, Any], known: int, place: Place) -> bool:
    """Whether a file's rows are by the rules that are known here, and not by older ones.

    Raises:
        DataError: they are by newer ones, of which nothing can be told.
    """
    version = header.get("rules_version", known)
    if version > known:
        raise DataError(
            f"{place} line 1: rules_version is {version}, and this evalsuite knows rules up to"
            f" {known}: read it with the evalsuite that made it, or judge the images again"
        )
    return bool(version == known)


def _other_verdict(row: Mapping[str, Any], prompt: GenevalPrompt, options: GenevalOptions) -> str:
    """What the rules say of a row's objects and colours, where that is not what the row says."""
    found = Detections(tuple(map(_detection, row["detections"])))
    colors = {int(clause): words for clause, words in row["colors"].items()}
    verdict = judge(found, row["kept"], prompt, colors, options)
    if list(verdict.reasons) == row["reasons"]:
        return ""
    rules, said = (("; ".join(words) or "correct") for words in (verdict.reasons, row["reasons"]))
    return f"what was found is {rules[:120]!r} by the rules, and the row says {said[:120]!r}"


def _detection(said: Mapping[str, Any]) -> Detection:
    x1, y1, x2, y2 = said["box"]
    return Detection(said["class"], (x1, y1, x2, y2), said["score"])


def _check_dpg(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], place: Place) -> None:
    _are_ours(header, DPG_RULES_VERSION, place)
    images = [_Image(row["item_id"], repr(row["item_id"][:60]), row["number"]) for row in rows]
    _refuse_twice(images, place)
    _refuse_uneven(images, place)
    asked = {row["item_id"]: row["answers"].keys() for row in rows if row["number"] == 0}
    for line, row in enumerate(rows, start=2):
        if row["answers"].keys() != asked[row["item_id"]]:
            words = f"its answers are to other questions than those of {row['item_id'][:60]!r}"
            raise damaged(place, line, words)


def _check_scores(
    header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], place: Place
) -> None:
    """A prompt may stand in a run twice, but each has as many images."""
    shown = [(row["prompt"], row["category"]) for row in rows if row["number"] == 0]
    _refuse_other_prompts(header, scored_prompts_sha256(shown), place)
    _refuse_uneven([_scored(row) for row in rows], place)


def _scored(row: Mapping[str, Any]) -> "_Image":
    prompt, category = row["prompt"], row["category"]
    words = repr(prompt[:60]) + (f" of {category[:60]!r}" if category is not None else "")
    return _Image(json.dumps([prompt, category]), words, row["number"])


def _refuse_other_prompts(header: Mapping[str, Any], found: str, place: Place) -> None:
    """Published scores stand beside those of a file by what its header calls its prompts."""
    said = header["prompts_sha256"]
    if said != found:
        raise damaged(
            place, 1, f"prompts_sha256 is {said[:12]!r}..., and that of its rows {found[:12]!r}..."
        )


class _Shape(NamedTuple):
    """Of one benchmark's file."""

    header: type[Frozen]
    row: type[Frozen]
    check: Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]], Place], None]


_SHAPES = {
    "geneval": _Shape(_GenevalHeader, _GenevalRow, _check_geneval),
    "dpg": _Shape(_DpgHeader, _DpgRow, _check_dpg),
    "scores": _Shape(_ScoresHeader, _ScoresRow, _check_scores),
}


def check_benchmark(header: Mapping[str, Any], place: Place) -> str:
    """The benchmark whose rows a file holds.

    Raises:
        CorruptionError: it is none that is known.
    """
    name = header.get("benchmark")
    if not isinstance(name, str) or name not in _SHAPES:
        known = ", ".join(_SHAPES)
        raise damaged(place, 1, f"benchmark {name!r} is none of {known}")
    return name


def check_shapes(
    header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], place: Place
) -> None:
    """Raise CorruptionError unless a file holds what is summed up and shown, each image once."""
    shape = _SHAPES[check_benchmark(header, place)]
    kinds = [shape.header, *[shape.row] * len(rows)]
    for line, (kind, content) in enumerate(zip(kinds, (header, *rows), strict=True), start=1):
        try:
            kind.model_validate(content)
        except ValidationError as error:
            raise damaged(place, line, explain(error, kind)) from error
    shape.check(header, rows, place)


class _Image(NamedTuple):
    """What a row is of."""

    prompt: str
    """What tells its prompt from others."""
    words: str
    """Its prompt in an error."""
    number: int


def _refuse_twice(images: Sequence[_Image], place: Place) -> None:
    seen: dict[_Image, int] = {}
    for line, image in enumerate(images, start=2):
        if seen.setdefault(image, line) != line:
            raise damaged(place, line, f"it is of the same image as line {seen[image]}")


def _refuse_uneven(images: Sequence[_Image], place: Place) -> None:
    """Raise CorruptionError unless each prompt has the images 0 to n - 1, as every set is judged.

    A row that is gone, or of another image, would change a score without a sign.
    """
    firsts = Counter(image.prompt for image in images if image.number == 0)
    seen: Counter[_Image] = Counter()
    for line, image in enumerate(images, start=2):
        seen[image] += 1
        if image.prompt not in firsts:
            raise damaged(place, line, f"no row is of the first image of {image.words}")
        if seen[image] > firsts[image.prompt]:
            words = f"it is one more of image {image.number} of {image.words} than of the first"
            raise damaged(place, line, words)
    prompts = {image.prompt: image.words for image in images}
    for number in range(1, max((image.number for image in images), default=0) + 1):
        for prompt, words in prompts.items():
            there = seen[_Image(prompt, words, number)]
            if there < firsts[prompt]:
                raise CorruptionError(
                    f"{place} has {there} rows of image {number} of {words}, and"
                    f" {firsts[prompt]} of the first: rows are missing, there twice or of other"
                    " images; remove the file"
                )


def _refuse_uneven_folders(prompts: Sequence[GenevalPrompt], place: Place) -> None:
    """What one prompt asks may stand in several folders, but in as many as that of any other."""
    counts = Counter(prompt.meaning for prompt in prompts)
    if len(set(counts.values())) > 1:
        (many, most), *_, (few, fewest) = counts.most_common()
        texts = {prompt.meaning: prompt.prompt[:60] for prompt in prompts}
        raise CorruptionError(
            f"{place} has {most} rows of {texts[many]!r} and {fewest} of {texts[few]!r}: rows are"
            " missing or there twice; remove the file"
        )


def damaged(place: Place, line: int, words: str) -> CorruptionError:
    """The error of a line, counted from 1, and what is wrong in it."""
    return CorruptionError(f"{place} line {line} is damaged: {words}; remove the file")
