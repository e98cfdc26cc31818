"""DPG-Bench over a run or a folder of grids: whose images are asked, and two ways to sum up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evalsuite.artifacts.digests import git_blob_of, known_sha256
from evalsuite.artifacts.images import Images
from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import Place
from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.dpg_protocol import departures_of, display_of
from evalsuite.pipeline.export_t2i import items_by_prompt
from evalsuite.pipeline.judged_images import (
    GridImages,
    JudgedImages,
    Shown,
    digest_of_pictures,
    images_of_run,
)
from evalsuite.pipeline.judgements import Row as AnswerRow
from evalsuite.pipeline.row_file import CSV_BLOB, protocol_of, read_both, read_rows
from evalsuite.pipeline.row_shapes import damaged
from evalsuite.pipeline.stage_names import ANSWERS
from evalsuite.pipeline.t2i_judges import JudgeSource
from evalsuite.t2i.clustered import Cluster, Estimate, difference, mean_within
from evalsuite.t2i.dpg import (
    Answers,
    DpgSummary,
    PromptResult,
    is_neither,
    summarise,
    summarise_as_published,
)
from evalsuite.t2i.dpg_questions import (
    Item,
    Row,
    items_as_published,
    items_as_they_are,
    items_of,
    read_dpg_rows,
)
from evalsuite.t2i.grids import CELLS
from evalsuite.t2i.judges import RULES_VERSION, Judge

MOST = 100.0
"""What a score is out of."""
MOST_NEITHER = 0.9
"""Share of answers that may be neither yes nor no; of a judge that is right for it, few are."""
_UNRELIABLE = (
    "published category scores use answers before zeroing, of the last image alone, and are mixed"
    " up where several processes made them: do not trust or compare them"
)


@dataclass(frozen=True)
class DpgInput:
    """Images to ask about, and the item that each prompt is."""

    images: JudgedImages
    items: tuple[str, ...]

    def scorer(self, rows: Sequence[Row], csv: Path, source: JudgeSource) -> "DpgScorer":
        """That asks the questions of `rows`, which are the csv's."""
        known = items_as_they_are(rows)
        items = tuple(known[name] for name in self.items)
        return DpgScorer(items, known_sha256(csv), git_blob_of(csv), source)


@dataclass(frozen=True)
class DpgScorer:
    """Asks each image its item's questions; see `Scorer`."""

    items: tuple[Item, ...]
    """In the order of the prompts' places."""
    csv_sha256: str
    csv_git_blob: str
    """The csv again, as it is published: its SHA-256 is known of nobody's copy."""
    source: JudgeSource
    kind: str = ANSWERS
    portion: int = 1
    portion_s: float = 0.0
    pads: bool = False
    tested_by: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The judge's."""
        return str(self.source.protocol["name"])

    @property
    def decides(self) -> dict[str, Any]:
        """Questions, how they are asked, and what names the judge."""
        return {
            "benchmark": "dpg",
            "rules_version": RULES_VERSION,
            "csv_sha256": self.csv_sha256,
            "judge": dict(self.source.protocol),
        }

    @property
    def says(self) -> dict[str, Any]:
        """The csv again."""
        return {CSV_BLOB: self.csv_git_blob}

    def check(self, rows: Sequence[AnswerRow]) -> None:
        """See `Scorer`: a judge that answers something else than yes or no."""
        check_answers(answers_of(rows))

    def load(self, device: torch.device) -> "DpgJudge":
        """See `Scorer`."""
        return DpgJudge(self.items, self.source.load(device))


class DpgJudge:
    """Asks and keeps the words."""

    def __init__(self, items: Sequence[Item], judge: Judge) -> None:
        self._items, self._judge = items, judge

    def rows(self, shown: Sequence[Shown], images: Sequence[Images]) -> list[AnswerRow]:
        """All answers about each image, by question."""
        rows: list[AnswerRow] = []
        for one, image in zip(shown, images, strict=True):
            item = self._items[one.place]
            words = self._judge.answer(image, list(item.texts.values()))
            answers = {str(q): word for q, word in zip(item.texts, words, strict=True)}
            row: dict[str, Any] = {
                "item_id": item.item_id,
                "number": one.number,
                "answers": answers,
            }
            rows.append(row | (_about(item) if one.number == 0 else {}))
        return rows


def _about(item: Item) -> dict[str, Any]:
    """What a page shows of a prompt; once, with its first image."""
    questions = [
        {"id": q.question_id, "parents": list(q.parents), "category": q.category, "text": q.text}
        for q in item.questions
    ]
    return {"prompt": item.prompt, "questions": questions}


def open_dpg(
    place: Place, csv: Path, rows: Sequence[Row], num_samples: int | None, resolution: int | None
) -> DpgInput:
    """A run of DPG-Bench's prompts, or a folder of grids of 2 x 2 cells of `resolution`.

    Raises:
        UsageError: options that do not fit.
        DataError: other prompts, or a folder that lacks a grid, or holds others or other sizes.
        IncompleteError: pixels are missing.
    """
    if not is_run(place):
        if resolution is None:
            raise UsageError(
                f"{place} is no run: give --resolution, the side of one cell of a grid"
            )
        if num_samples is not None:
            raise UsageError(f"{place} is no run: --num-samples is of a run, grids bring their own")
        return _open_grids(place, tuple(dict.fromkeys(row.item_id for row in rows)), resolution)
    if resolution is not None:
        raise UsageError(f"{place} is a run: --resolution is of a folder of grids")
    run = RunDirectory.open(place)
    images = images_of_run(run, num_samples, "DPG-Bench")
    return DpgInput(images, tuple(items_by_prompt(run.manifest.prompts or (), csv)))


def _open_grids(place: Place, items: tuple[str, ...], resolution: int) -> DpgInput:
    if not isinstance(place, Path) or not place.is_dir():
        raise UsageError(f"{place} is neither a run nor a folder of grids")
    there = {file.name for file in place.iterdir()}
    wanted = {f"{item}.png" for item in items}
    jpegs = {name for name in there if name.lower().endswith((".jpg", ".jpeg"))}
    if jpegs:
        raise DataError(
            f"{place} holds {len(jpegs)} JPEGs such as {min(jpegs)}: PNG is wanted, which"
            " keeps pixels, as `evalsuite export --format dpg` writes it"
        )
    for names, what in ((wanted - there, "lacks"), (there - wanted, "holds, beside its grids,")):
        if names:
            raise DataError(f"{place} {what} {len(names)} files such as {min(names)}")
    files = tuple(str((place / f"{item}.png").absolute()) for item in items)
    source = digest_of_pictures(files, resolution)
    return DpgInput(GridImages(str(place.absolute()), source, CELLS, files, resolution), items)


def answers_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Answers]]:
    """Answers by item and image."""
    found: dict[str, dict[int, Answers]] = {}
    for row in rows:
        answers = {int(question): words for question, words in row["answers"].items()}
        found.setdefault(row["item_id"], {})[row["number"]] = answers
    return {item: [images[k] for k in sorted(images)] for item, images in found.items()}


def compare_answers(a: Place, b: Place, csv: Path) -> dict[str, Any]:
    """Corrected score of a less that of b, paired prompt by prompt.

    Raises:
        UsageError: `csv` is not the one by which was asked.
        CorruptionError: a file says that others were its questions than are in `csv`.
        DataError: the prompts are not the same, or the protocols differ.
    """
    for place in (a, b):
        _read_asked(place, csv)
    items = items_of(read_dpg_rows(csv))
    sides = [clusters_of(summarise(items, answers_of(one))[1]) for one in read_both(a, b)]
    found = difference(*sides)
    return {
        "difference": found.value,
        "standard_error": found.standard_error,
        "interval": None if found.interval is None else list(found.interval),
        "num_prompts": found.num_prompts,
    }


def _read_asked(place: Place, csv: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header, with git's name of the csv, and rows of a file that agree with it."""
    header, rows = read_rows(place)
    _check_csv(header, place, csv)
    said, here = header.get(CSV_BLOB), git_blob_of(csv)
    if said not in {None, here}:
        words = f"{CSV_BLOB} is {said[:12]!r}, and that of {csv} is {here[:12]!r}"
        raise damaged(place, 1, words)
    items = items_as_they_are(read_dpg_rows(csv))
    for line, row in enumerate(rows, start=2):
        item = items.get(row["item_id"])
        if row["number"] or item is None:  # a prompt that is no item is told by whoever sums up
            continue
        for name, asked in _about(item).items():
            if row[name] != asked:
                words = f"{name} of {item.item_id[:60]!r} is not as {csv} has it"
                raise damaged(place, line, words)
    return {**header, CSV_BLOB: here}, rows


def _check_csv(header: Mapping[str, Any], place: Place, csv: Path) -> None:
    """Raise UsageError unless `csv` is the one by which the answers at `place` were asked for.

    Another question, dependency or category would give other scores under the same protocol.
    """
    here, then = known_sha256(csv), header["csv_sha256"]
    if here != then:
        raise UsageError(
            f"{csv} has sha256 {here[:12]}..., but {place} holds answers to the questions of"
            f" {then[:12]}...: give that csv, or ask the questions of this one by `t2i dpg`"
        )


def summary_of(path: Place, csv: Path) -> dict[str, Any]:
    """Both aggregations of a finished file of answers.

    Each is refused, with the reason, where it cannot be, and the other is given: the corrected one
    where questions are broken, the official one where all prompts are among those that it drops.

    Raises:
        UsageError: `csv` is not the one by which was asked.
        CorruptionError: the file says that others were its questions than are in `csv`.
        DataError: answers are missing.
    """
    header, kept = _read_asked(path, csv)
    rows, answers = read_dpg_rows(csv), answers_of(kept)
    neither, departures = check_answers(answers), departures_of(header, kept)
    return {
        "benchmark": "dpg",
        "display": display_of(header, departures),
        "departures": list(departures),
        "corrected": _corrected(rows, answers),
        "official": {**_official(rows, answers), "note": _UNRELIABLE},
        "answers_neither_yes_nor_no": neither,
        "protocol": protocol_of(header),
        "source": header["source"],
    }


def check_answers(answers: Mapping[str, Sequence[Answers]]) -> int:
    """How many answers are neither yes nor no; they count as no.

    Raises:
        DataError: nearly all are: the score would be near 0 whatever the images show.
    """
    words = [w for images in answers.values() for image in images for w in image.values()]
    neither = [word for word in words if is_neither(word)]
    if len(neither) > MOST_NEITHER * len(words):
        raise DataError(
            f"{len(neither)} of {len(words)} answers are neither yes nor no, such as"
            f" {neither[0][:60]!r}: the judge is broken, or no network for such questions; no score"
            " is given"
        )
    return len(neither)


def _corrected(rows: Sequence[Row], answers: Mapping[str, Sequence[Answers]]) -> dict[str, Any]:
    try:
        items = items_of(rows)
    except DataError as error:
        return {"refused": str(error)}
    found, results = summarise(items, answers)
    broad = {name: one.interval for name, one in category_estimates(items, results).items()}
    return {
        **_shown(found, results),
        "category_intervals": {k: None if v is None else list(v) for k, v in broad.items()},
    }


def _official(rows: Sequence[Row], answers: Mapping[str, Sequence[Answers]]) -> dict[str, Any]:
    try:
        found, results = summarise_as_published(items_as_published(rows), answers)
    except DataError as error:
        return {"refused": str(error)}
    return {**_shown(found, results), "dropped": found.dropped}


def _shown(summary: DpgSummary, results: Mapping[str, PromptResult]) -> dict[str, Any]:
    overall = mean_within(clusters_of(results), MOST)
    return {
        "standard_error": overall.standard_error,
        "interval": None if overall.interval is None else list(overall.interval),
        "overall": summary.overall,
        "categories": summary.broad,
        "detailed": summary.detailed,
        "num_prompts": summary.num_prompts,
        "num_answers": summary.num_answers,
    }


def category_estimates(
    items: Mapping[str, Item], results: Mapping[str, PromptResult]
) -> dict[str, Estimate]:
    """Of each broad category, out of 100, over all its answers; intervals are by prompt."""
    found: dict[str, list[Cluster]] = {}
    for item_id, result in results.items():
        answers: dict[str, list[bool]] = {}
        for image in result.images:
            for question in items[item_id].questions:
                answers.setdefault(question.broad, []).append(image.zeroed[question.question_id])
        for name, values in answers.items():
            found.setdefault(name, []).append(Cluster(item_id, MOST * sum(values), len(values)))
    return {name: mean_within(clusters, MOST) for name, clusters in sorted(found.items())}


def clusters_of(results: Mapping[str, PromptResult]) -> list[Cluster]:
    """Each prompt's score out of 100, for intervals and pairs."""
    return [Cluster(item, MOST * result.score, 1) for item, result in results.items()]
