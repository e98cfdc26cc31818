"""Verdicts on a run's images as a page shows them: bars by tag, and images with marks on them.

They come from the files of rows that `t2i` and `run` leave in the run's `verdicts/`.
"""

import math
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import Place
from evalsuite.config import BenchmarkSpec, PublishedScores, load_spec, parse_json
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.dpg_protocol import departures_of as dpg_departures
from evalsuite.pipeline.dpg_protocol import display_of as dpg_display
from evalsuite.pipeline.exported import EXTERNAL
from evalsuite.pipeline.geneval_run import summary_of as geneval_summary
from evalsuite.pipeline.judged_images import JudgedImages
from evalsuite.pipeline.prompt_scores import summary_of as scores_summary
from evalsuite.pipeline.row_file import protocol_of, read_rows
from evalsuite.pipeline.stage_names import VERDICTS
from evalsuite.report.dpg_answers import answer_bars, answer_groups, fault_of
from evalsuite.report.outlines import mask_of_runs, outline_of
from evalsuite.report.verdict_pictures import OfFolder, OfRun, Pictures
from evalsuite.report.verdict_view import Bar, Card, Group, Mark, More, bar_of, spread

WRONG, RIGHT = 5, 3
"""Images of a tag that stand on the page, of different prompts where there are so many ..."""
MORE, MORE_RIGHT = 60, 30
"""... and others of it, which are files beside the page."""
REJECTED = 4
"""Objects of an image that did not count, though their class is asked for; the best ones."""
_ORIENTATION = (
    "Published rows are of the official detector and of the authors' own images: for orientation,"
    " not for a ranking."
)
_OTHER_PROTOCOL = "Published scores are left out: they are of another protocol ({departures})."
_JUDGES = "Corrected aggregation; scores are this judge's, published ones are mPLUG's."
_EXTERNAL = "By {command}; {files} files of {source}."
_COUNTS = ("total_", "num_", "dropped_")
"""How names of numbers begin that are no scores, and so no bars."""

Row = Mapping[str, Any]


class VerdictSet(NamedTuple):
    """One file of rows."""

    title: str
    name: str
    """Of the file."""
    num_images: int
    bars: list[Bar]
    groups: list[Group]
    most: float = 1.0
    """Value of a bar's full length."""
    notes: tuple[str, ...] = ()
    published: tuple[PublishedScores, ...] = ()
    published_by: str = ""
    files: Mapping[str, bytes] = {}
    protocol: Mapping[str, Any] = {}
    """What decided the rows."""

    @property
    def overall(self) -> Bar | None:
        """The score of all; None where there is none."""
        return next((bar for bar in self.bars if bar.name in {"overall", "mean"}), None)


def verdict_sets(run: RunDirectory, folder: str) -> list[VerdictSet]:
    """Every file of rows in a run, by name.

    Args:
        run: whose verdicts.
        folder: beside the page, for files of images.

    Raises:
        CorruptionError: a file cannot be read, or is not of this run.
        DataError: rows are missing.
    """
    names = run.storage.names(VERDICTS, ".jsonl")
    pictures, plan_id = Pictures(OfRun(run), str(run.root), folder), run.manifest.plan_id
    ours = [_set_of(pictures, plan_id, run.storage.path(f"{VERDICTS}/{name}")) for name in names]
    others = [n for n in run.storage.names(VERDICTS, ".json") if n.startswith(EXTERNAL)]
    return ours + [_external(run, name) for name in others]


def verdict_set(images: JudgedImages, place: Place, folder: str) -> VerdictSet:
    """One file of rows about the images of a run or a folder; errors are those of `verdict_sets`.

    Args:
        images: that were judged.
        place: the file.
        folder: beside the page, for files of images.
    """
    pictures = Pictures(OfFolder(images), str(images.place), folder)
    return _set_of(pictures, images.source, place)


def _set_of(pictures: Pictures, source: str, place: Place) -> VerdictSet:
    header, rows = read_rows(place)
    if header.get("source") != source:
        raise CorruptionError(f"{place} is of other images than {pictures.where}: remove it")
    build = _BUILDERS.get(str(header.get("benchmark")))
    if build is None:
        raise CorruptionError(f"{place} is of no benchmark that is known: remove it")
    return build(_Source(pictures, place, header, rows))._replace(protocol=protocol_of(header))


class _Source(NamedTuple):
    """One file and the images that it is of."""

    pictures: Pictures
    place: Place
    header: Row
    rows: Sequence[Row]


def _geneval(source: _Source) -> VerdictSet:
    found, rows = geneval_summary(source.place), source.rows
    published, notes = _published(source.header, found["departures"])
    bars = [
        bar_of(tag, one, 1.0, {p.model: p.tags[tag] for p in published if tag in p.tags})
        for tag, one in found["tags"].items()
    ]
    overall = {**found["overall_estimate"], "score": found["overall"]}
    bars.append(bar_of("overall", overall, 1.0, {p.model: p.overall for p in published}))
    shown = {tag: _picked(rows, tag) for tag in found["tags"]}
    pictures = source.pictures.uris([i for one in shown.values() for i in one.first])
    files = source.pictures.files([i for one in shown.values() for i in one.wrong + one.right])

    def more(indices: Sequence[int], what: str) -> list[More]:
        cards = [_card(i, rows[i], files[i][0]) for i in indices]
        return [More(f"{len(cards)} more that {_are(len(cards))} {what}", cards)] if cards else []

    groups = [
        Group(
            tag,
            f"{found['tags'][tag]['correct']} of {found['tags'][tag]['images']} are right",
            [_card(i, rows[i], pictures[i]) for i in one.first],
            more(one.wrong, "wrong") + more(one.right, "right"),
        )
        for tag, one in shown.items()
    ]
    return VerdictSet(
        found["display"],
        source.place.name,
        len(rows),
        bars,
        groups,
        notes=notes,
        published=published,
        published_by="the official detector",
        files=dict(files.values()),
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _published(
    header: Row, departures: Sequence[str]
) -> tuple[tuple[PublishedScores, ...], tuple[str, ...]]:
    """GenEval's published scores where nothing but the detector may differ, and a note."""
    if header["detector"]["kind"] == "shapes detector":
        return (), ()
    if departures:
        return (), (_OTHER_PROTOCOL.format(departures="; ".join(departures)),)
    return load_spec(BenchmarkSpec, "geneval").published, (_ORIENTATION,)


class _Picked(NamedTuple):
    """Images of one tag that are shown: on the page, and beside it."""

    first: list[int]
    wrong: list[int]
    right: list[int]


def _picked(rows: Sequence[Row], tag: str) -> _Picked:
    """Some that are wrong, then some that are right; of each prompt one first."""
    prompts = {i: row["prompt"]["prompt"] for i, row in enumerate(rows) if row["tag"] == tag}
    wrong = [(i, prompt) for i, prompt in prompts.items() if not rows[i]["correct"]]
    right = [(i, prompt) for i, prompt in prompts.items() if rows[i]["correct"]]
    first = [*spread(wrong, WRONG), *spread(right, RIGHT)]
    rests = [[pair for pair in pairs if pair[0] not in first] for pairs in (wrong, right)]
    return _Picked(first, spread(rests[0], MORE), spread(rests[1], MORE_RIGHT))


def _card(index: int, row: Row, uri: str) -> Card:
    colors = _colors_of(row)
    asked = {clause["class"] for clause in row["prompt"]["include"]}
    height, width = row["size"]
    kept = {place: name for name, places in row["kept"].items() for place in places}
    marks = []
    for place in [*kept, *_rejected(row, asked, kept)]:
        found = row["detections"][place]
        name, mask = found["class"], found["mask"]
        path = outline_of(mask_of_runs(mask, (height, width))) if mask is not None else ""
        color = f", {colors[place]}" if place in colors else ""
        words = f"{name} {found['score']:.2f}{color}"
        marks.append(Mark(words, tuple(found["box"]), path, name in asked, place in kept))
    prompt, reasons = row["prompt"]["prompt"], list(row["reasons"])
    return Card(index, uri, (width, height), prompt, row["correct"], reasons, marks)


def _rejected(row: Row, asked: Collection[str], kept: Collection[int]) -> list[int]:
    """Places of what was found of an asked class and did not count, the most certain first."""
    found = row["detections"]
    places = [n for n, one in enumerate(found) if n not in kept and one["class"] in asked]
    return sorted(places, key=lambda n: -found[n]["score"])[:REJECTED]


def _colors_of(row: Row) -> dict[int, str]:
    """The colour that the classifier named, by the place of the detection."""
    found: dict[int, str] = {}
    for clause, words in row["colors"].items():
        kept = row["kept"].get(row["prompt"]["include"][int(clause)]["class"], [])
        found |= dict(zip(kept, words, strict=False))
    return found


def _dpg(source: _Source) -> VerdictSet:
    departures, rows = dpg_departures(source.header, source.rows), source.rows
    title, fault = dpg_display(source.header, departures, "DPG, corrected"), fault_of(rows)
    if fault:
        return VerdictSet(title, source.place.name, len(rows), [], [], 100.0, (fault,))
    groups = answer_groups(rows, source.pictures.uris, source.pictures.stored.size)
    published = () if departures else load_spec(BenchmarkSpec, "dpg").published
    left_out = _OTHER_PROTOCOL.format(departures="; ".join(departures))
    return VerdictSet(
        title,
        source.place.name,
        len(rows),
        answer_bars(rows, {one.model: one.overall for one in published}),
        groups,
        100.0,
        (_JUDGES, left_out) if departures else (_JUDGES,),
        published,
        "mPLUG",
    )


def _scores(source: _Source) -> VerdictSet:
    found, rows = scores_summary(source.place), source.rows
    overall = {**found["overall_estimate"], "score": found["overall"]}
    scored = {**found["categories"], "mean": overall}
    most = max([*(one["score"] for one in scored.values()), 1e-9])
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["score"], i))
    ends = {"lowest": order[: WRONG + RIGHT], "highest": order[::-1][: WRONG + RIGHT]}
    pictures = source.pictures.uris([i for places in ends.values() for i in places])
    height, width = source.pictures.stored.size
    groups = [
        Group(
            name,
            "",
            [
                Card(
                    i, pictures[i], (width, height), rows[i]["prompt"], None,
                    [f"{rows[i]['score']:.4f}"], [],
                )
                for i in places
            ],
            [],
        )
        for name, places in ends.items()
    ]  # fmt: skip
    bars = [bar_of(name, one, most, {}) for name, one in scored.items()]
    title = str(found["display"])
    return VerdictSet(title, source.place.name, len(rows), bars, groups, round(most, 4))


def _external(run: RunDirectory, name: str) -> VerdictSet:
    """Somebody's numbers, with what they were made by."""
    where = f"{VERDICTS}/{name}"
    try:
        found = parse_json(run.storage.find(where) or b"")
        numbers = {str(name): _finite(value) for name, value in found["scores"].items()}
        of, command = found["provenance"]["of"], shlex.join(found["provenance"]["command"])
        title, plan_id, count = str(found["display"]), found["source"], int(of["num_images"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptionError(f"{run.root}/{where} cannot be read: remove it") from error
    if plan_id != run.manifest.plan_id:
        raise CorruptionError(f"{run.root}/{where} is of other images than the run's: remove it")
    counts = {name: value for name, value in numbers.items() if name.startswith(_COUNTS)}
    scores = {name: value for name, value in numbers.items() if name not in counts}
    most = max([1.0, *scores.values()])
    most = most if most == 1.0 else max(most, 100.0)
    bars = [bar_of(k, {"score": v, "interval": None}, most, {}) for k, v in scores.items()]
    note = _EXTERNAL.format(command=command, files=of["num_files"], source=of["images"])
    listed = ", ".join(f"{name} {value:g}" for name, value in counts.items())
    return VerdictSet(
        title, name, count, bars, [], most, (note, f"{listed}.") if listed else (note,)
    )


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


_BUILDERS: dict[str, Callable[[_Source], VerdictSet]] = {
    "geneval": _geneval,
    "dpg": _dpg,
    "scores": _scores,
}
