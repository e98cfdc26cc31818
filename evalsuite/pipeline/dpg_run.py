"""DPG-Bench over a run or a folder of grids: ask, keep every answer, and sum up in two ways."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.run_directory import STORED_PIXELS, RunDirectory
from evalsuite.artifacts.samples.folder import read_file
from evalsuite.artifacts.samples.pictures import PictureReader
from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.export_t2i import items_by_prompt
from evalsuite.pipeline.row_file import RowFile, read_both, read_rows
from evalsuite.t2i.clustered import Cluster, difference, mean
from evalsuite.t2i.dpg import (
    Answers,
    DpgSummary,
    PromptResult,
    is_neither,
    summarise,
    summarise_as_published,
)
from evalsuite.t2i.dpg_questions import Item, Row, items_as_published, items_of
from evalsuite.t2i.grids import CELLS, cut_cells
from evalsuite.t2i.judges import Judge

_PORTION = 8
_UNRELIABLE = (
    "published category scores use answers before zeroing, of the last image alone, and are mixed"
    " up where several processes made them: do not trust or compare them"
)


class Cell(NamedTuple):
    """One image of one item."""

    item_id: str
    number: int
    image: Images


@dataclass(frozen=True)
class DpgInput:
    """Images to ask about, in an order that is the same each time."""

    source: str
    items: tuple[str, ...]
    per_item: int
    run: RunDirectory | None = None
    folder: Path | None = None
    resolution: int = 0

    @property
    def num_images(self) -> int:
        """All cells."""
        return len(self.items) * self.per_item

    def read(self, start: int) -> Iterator[Cell]:
        """Images from number `start` on."""
        if self.run is not None:
            for index, image in self.run.read_images(start, self.num_images):
                place = index % len(self.items)
                yield Cell(self.items[place], index // len(self.items), image)
            return
        assert self.folder is not None
        for number in range(start // self.per_item, len(self.items)):
            item_id = self.items[number]
            path = self.folder / f"{item_id}.png"
            picture = PictureReader().decode(read_file(path), str(path))
            cells = cut_cells(picture, self.resolution, self.per_item)
            first = start - number * self.per_item if number == start // self.per_item else 0
            for k in range(first, self.per_item):
                yield Cell(item_id, k, cells[k])


def open_dpg(
    path: Path, csv: Path, rows: Sequence[Row], num_samples: int | None, resolution: int | None
) -> DpgInput:
    """A run of DPG-Bench's prompts, or a folder of grids of 2 x 2 cells of `resolution`.

    Raises:
        UsageError: options that do not fit.
        DataError: other prompts, or a folder that lacks a grid or holds others.
        IncompleteError: pixels are missing.
    """
    known = dict.fromkeys(row.item_id for row in rows)
    if not (path / "manifest.json").is_file():
        if resolution is None:
            raise UsageError(f"{path} is no run: give --resolution, the side of one cell of a grid")
        return _open_grids(path, tuple(known), resolution)
    run = RunDirectory.open(path)
    if run.manifest.prompts is None:
        raise UsageError(f"{path} is a run of classes: DPG-Bench needs prompts")
    items = tuple(items_by_prompt(run.manifest.prompts, csv))
    count = num_samples or run.num_asked()
    if count % len(items):
        raise UsageError(f"{count} samples are no whole rounds of {len(items)} prompts")
    run.slices(run.pixel_receipts(), 0, count, STORED_PIXELS)
    return DpgInput(run.manifest.plan_id, items, count // len(items), run)


def _open_grids(path: Path, items: tuple[str, ...], resolution: int) -> DpgInput:
    if not path.is_dir():
        raise UsageError(f"{path} is neither a run nor a folder of grids")
    there = {file.name for file in path.iterdir()}
    wanted = {f"{item}.png" for item in items}
    for names, what in ((wanted - there, "lacks"), (there - wanted, "holds, beside its grids,")):
        if names:
            raise DataError(f"{path} {what} {len(names)} files such as {min(names)}")
    digest = hashlib.sha256()
    for item in items:
        digest.update(read_file(path / f"{item}.png"))
    return DpgInput(digest.hexdigest(), items, CELLS, None, path, resolution)


def ask_all(given: DpgInput, items: Mapping[str, Item], judge: Judge, file: RowFile) -> None:
    """Ask what has no answer yet; each portion of answers is kept once it is there."""
    cells = given.read(len(file.rows))
    while portion := list(itertools.islice(cells, _PORTION)):
        rows = []
        for cell in portion:
            questions = items[cell.item_id].questions
            words = judge.answer(cell.image, [question.text for question in questions])
            answers = {str(q.question_id): w for q, w in zip(questions, words, strict=True)}
            rows.append({"item_id": cell.item_id, "number": cell.number, "answers": answers})
        file.extend(rows)


def answers_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Answers]]:
    """Answers by item and image."""
    found: dict[str, dict[int, Answers]] = {}
    for row in rows:
        answers = {int(question): words for question, words in row["answers"].items()}
        found.setdefault(row["item_id"], {})[row["number"]] = answers
    return {item: [images[k] for k in sorted(images)] for item, images in found.items()}


def compare_answers(a: Path, b: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Corrected score of a less that of b, paired prompt by prompt.

    Raises:
        DataError: the prompts are not the same, or the protocols differ.
    """
    items = items_of(rows)
    sides = [clusters_of(summarise(items, answers_of(one))[1]) for one in read_both(a, b)]
    found = difference(*sides)
    return {
        "difference": found.value,
        "standard_error": found.standard_error,
        "interval": None if found.interval is None else list(found.interval),
        "num_prompts": found.num_prompts,
    }


def summary_of(path: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Both aggregations of a finished file of answers.

    Raises:
        DataError: answers are missing, or the questions are broken.
    """
    header, kept = read_rows(path, "num_images")
    answers = answers_of(kept)
    corrected, results = summarise(items_of(rows), answers)
    published, _ = summarise_as_published(items_as_published(rows), answers)
    words = [w for images in answers.values() for image in images for w in image.values()]
    overall = mean(clusters_of(results))
    return {
        "benchmark": "dpg",
        "display": f"DPG ({header['judge']['name']})",
        "corrected": {
            **_shown(corrected),
            "standard_error": overall.standard_error,
            "interval": None if overall.interval is None else list(overall.interval),
        },
        "official": {**_shown(published), "dropped": published.dropped, "note": _UNRELIABLE},
        "answers_neither_yes_nor_no": sum(map(is_neither, words)),
        "protocol": {k: v for k, v in header.items() if k not in {"schema", "source"}},
        "source": header["source"],
    }


def _shown(summary: DpgSummary) -> dict[str, Any]:
    return {
        "overall": summary.overall,
        "categories": summary.broad,
        "detailed": summary.detailed,
        "num_prompts": summary.num_prompts,
        "num_answers": summary.num_answers,
    }


def clusters_of(results: Mapping[str, PromptResult]) -> list[Cluster]:
    """Each prompt's score out of 100, for intervals and pairs."""
    return [Cluster(item, 100 * result.score, 1) for item, result in results.items()]
