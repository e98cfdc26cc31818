"""Verdicts on a run's images: bars by tag, and images with what a detector found in them.

The section needs the run alone: its files of rows, which `t2i` and `run` leave in `verdicts/`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import Place
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.geneval_run import summary_of as geneval_summary
from evalsuite.pipeline.prompt_scores import summary_of as scores_summary
from evalsuite.pipeline.row_file import read_rows
from evalsuite.pipeline.stage_names import VERDICTS
from evalsuite.report.dpg_answers import answer_bars, answer_groups
from evalsuite.report.grid import data_uris
from evalsuite.report.outlines import mask_of_runs, outline_of
from evalsuite.report.verdict_view import Bar, Card, Group, Mark, bar_of, spread

WRONG, RIGHT = 5, 3
"""Images of a tag that are shown, of different prompts where there are so many."""
_SIDES = (256, 192, 128, 96)
_IMAGE_BYTES = 2_500_000
_ORIENTATION = (
    "published rows are of the official detector and of the authors' own images: for orientation,"
    " not for a ranking"
)

Row = Mapping[str, Any]


class VerdictSet(NamedTuple):
    """One file of rows."""

    title: str
    name: str
    """Of the file."""
    notes: list[str]
    bars: list[Bar]
    published: list[str]
    """Models whose published scores stand beside the bars."""
    groups: list[Group]
    num_images: int


def verdict_sets(run: RunDirectory) -> list[VerdictSet]:
    """Every file of rows in a run, by name.

    Raises:
        CorruptionError: a file cannot be read, or is not of this run.
        DataError: rows are missing.
    """
    names = run.storage.names(VERDICTS, ".jsonl")
    return [_set_of(run, run.storage.path(f"{VERDICTS}/{name}")) for name in names]


def _set_of(run: RunDirectory, place: Place) -> VerdictSet:
    header, rows = read_rows(place)
    if header.get("source") != run.manifest.plan_id:
        raise CorruptionError(f"{place} is of other images than the run's: remove it")
    build = _BUILDERS.get(str(header.get("benchmark")))
    if build is None:
        raise CorruptionError(f"{place} is of no benchmark that is known: remove it")
    return build(run, place, header, rows)


def _geneval(run: RunDirectory, place: Place, header: Row, rows: Sequence[Row]) -> VerdictSet:
    found = geneval_summary(place)
    own = header["detector"]["kind"] == "shapes detector"
    published = [] if own else list(load_spec(BenchmarkSpec, "geneval").published)
    bars = [
        bar_of(tag, one, 1.0, {p.model: p.tags[tag] for p in published if tag in p.tags})
        for tag, one in found["tags"].items()
    ]
    overall = {**found["overall_estimate"], "score": found["overall"]}
    bars.append(bar_of("overall", overall, 1.0, {p.model: p.overall for p in published}))
    picked = {
        tag: _picked([i for i, row in enumerate(rows) if row["tag"] == tag], rows)
        for tag in found["tags"]
    }
    pictures = _pictures(run, [i for places in picked.values() for i in places])
    groups = [
        Group(
            tag,
            f"{found['tags'][tag]['correct']} of {found['tags'][tag]['images']} are right",
            [_card(i, rows[i], pictures[i]) for i in places],
        )
        for tag, places in picked.items()
    ]
    return VerdictSet(
        found["display"],
        place.name,
        [_ORIENTATION] if published else [],
        bars,
        [p.model for p in published],
        groups,
        len(rows),
    )


def _picked(places: Sequence[int], rows: Sequence[Row]) -> list[int]:
    """Some that are wrong, then some that are right; of each prompt one first."""

    def keys(wanted: bool) -> list[tuple[int, str]]:
        return [(i, rows[i]["prompt"]["prompt"]) for i in places if rows[i]["correct"] is wanted]

    return spread(keys(False), WRONG) + spread(keys(True), RIGHT)


def _card(index: int, row: Row, uri: str) -> Card:
    colors = _colors_of(row)
    asked = {clause["class"] for clause in row["prompt"]["include"]}
    height, width = row["size"]
    marks = []
    for name, places in row["kept"].items():
        for place in places:
            found = row["detections"][place]
            mask = found["mask"]
            path = outline_of(mask_of_runs(mask, (height, width))) if mask is not None else ""
            words = f"{name} {found['score']:.2f}" + (
                f", {colors[place]}" if place in colors else ""
            )
            marks.append(Mark(words, tuple(found["box"]), path, name in asked))
    return Card(
        index,
        uri,
        (width, height),
        row["prompt"]["prompt"],
        row["correct"],
        list(row["reasons"]),
        marks,
    )


def _colors_of(row: Row) -> dict[int, str]:
    """The colour that the classifier named, by the place of the detection."""
    found: dict[int, str] = {}
    for clause, words in row["colors"].items():
        kept = row["kept"].get(row["prompt"]["include"][int(clause)]["class"], [])
        found |= dict(zip(kept, words, strict=False))
    return found


def _dpg(run: RunDirectory, place: Place, header: Row, rows: Sequence[Row]) -> VerdictSet:
    groups = answer_groups(rows, lambda indices: _pictures(run, indices), run.plan.size)
    note = "corrected aggregation; the scores are this judge's, published ones are mPLUG's"
    title = f"DPG ({header['judge']['name']})"
    return VerdictSet(title, place.name, [note], answer_bars(rows), [], groups, len(rows))


def _scores(run: RunDirectory, place: Place, header: Row, rows: Sequence[Row]) -> VerdictSet:  # noqa: ARG001
    found = scores_summary(place)
    overall = {**found["overall_estimate"], "score": found["overall"]}
    scored = {**found["categories"], "mean": overall}
    most = max([*(one["score"] for one in scored.values()), 1e-9])
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["score"], i))
    ends = {"lowest": order[: WRONG + RIGHT], "highest": order[::-1][: WRONG + RIGHT]}
    pictures = _pictures(run, [i for places in ends.values() for i in places])
    groups = [
        Group(
            name,
            "",
            [_scored(i, rows[i], pictures[i], run.plan.size) for i in places],
        )
        for name, places in ends.items()
    ]
    bars = [bar_of(name, one, most, {}) for name, one in scored.items()]
    return VerdictSet(str(found["display"]), place.name, [], bars, [], groups, len(rows))


def _scored(index: int, row: Row, uri: str, size: tuple[int, int]) -> Card:
    words = [f"{row['score']:.4f}"]
    return Card(index, uri, (size[1], size[0]), row["prompt"], None, words, [])


def _pictures(run: RunDirectory, indices: Sequence[int]) -> dict[int, str]:
    """Thumbnails of stored images as data URIs, by index; shards are read once each."""
    wanted, found = set(indices), dict[int, Images]()
    for receipt in run.pixel_receipts():
        here = {i for i in wanted if receipt.start <= i < receipt.stop}
        if here:
            found |= {i: x for i, x in run.read_shard(receipt) if i in here and x is not None}
            wanted -= here
    if wanted:
        raise CorruptionError(
            f"{run.root}: sample {min(wanted)} was judged, but its pixels are gone"
        )
    order = sorted(found)
    uris, _ = data_uris([found[i] for i in order], _SIDES, _IMAGE_BYTES)
    return dict(zip(order, uris, strict=True))


_BUILDERS: dict[str, Callable[[RunDirectory, Place, Row, Sequence[Row]], VerdictSet]] = {
    "geneval": _geneval,
    "dpg": _dpg,
    "scores": _scores,
}
