"""Verdicts on a run's images as a page shows them: bars by tag, and images with marks on them.

They come from the files of rows that `t2i` and `run` leave in the run's `verdicts/`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evalsuite.artifacts.images import encode_png
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import Place
from evalsuite.config import BenchmarkSpec, PublishedScores, load_spec
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.geneval_run import summary_of as geneval_summary
from evalsuite.pipeline.prompt_scores import summary_of as scores_summary
from evalsuite.pipeline.row_file import read_rows
from evalsuite.pipeline.stage_names import VERDICTS
from evalsuite.report.dpg_answers import answer_bars, answer_groups, fault_of
from evalsuite.report.outlines import mask_of_runs, outline_of
from evalsuite.report.pictures import data_uris, is_crisp, thumbnail
from evalsuite.report.verdict_view import Bar, Card, Group, Mark, bar_of, spread

WRONG, RIGHT = 5, 3
"""Images of a tag that stand on the page, of different prompts where there are so many ..."""
MORE = 60
"""... and others of it that are wrong, which are files beside the page."""
_NOT_PROTOCOL = {"schema", "source", "num_images"}
_SIDE = 256
"""Longest of those files."""
_IMAGE_BYTES = 1_500_000
_ORIENTATION = (
    "Published rows are of the official detector and of the authors' own images: for orientation,"
    " not for a ranking."
)
_OTHER_PROTOCOL = "Published scores are left out: they are of another protocol ({departures})."
_JUDGES = "Corrected aggregation; scores are this judge's, published ones are mPLUG's."

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
    return [_set_of(run, run.storage.path(f"{VERDICTS}/{name}"), folder) for name in names]


def _set_of(run: RunDirectory, place: Place, folder: str) -> VerdictSet:
    header, rows = read_rows(place)
    if header.get("source") != run.manifest.plan_id:
        raise CorruptionError(f"{place} is of other images than the run's: remove it")
    build = _BUILDERS.get(str(header.get("benchmark")))
    if build is None:
        raise CorruptionError(f"{place} is of no benchmark that is known: remove it")
    protocol = {key: header[key] for key in header.keys() - _NOT_PROTOCOL}
    return build(_Source(run, place, header, rows, folder))._replace(protocol=protocol)


class _Source(NamedTuple):
    """One file and the run that it is of."""

    run: RunDirectory
    place: Place
    header: Row
    rows: Sequence[Row]
    folder: str

    def pictures(self, indices: Sequence[int]) -> dict[int, str]:
        """Data URIs of stored images, by index; small where they are many."""
        wanted = sorted(set(indices))
        images = dict(self.run.find_images(wanted))
        self._check_there(wanted, images)
        uris, _ = data_uris([images[i] for i in wanted], _IMAGE_BYTES)
        return dict(zip(wanted, uris, strict=True))

    def files(self, indices: Sequence[int]) -> dict[int, tuple[str, bytes]]:
        """Path beside the page and content of stored images, by index."""
        found = {}
        suffix = "png" if is_crisp(self.run.plan.size) else "jpg"
        for index, image in self.run.find_images(indices):
            content = encode_png(image) if suffix == "png" else thumbnail(image, _SIDE)
            found[index] = (f"{self.folder}/{index:06d}.{suffix}", content)
        self._check_there(indices, found)
        return found

    def _check_there(self, wanted: Sequence[int], found: Mapping[int, object]) -> None:
        gone = set(wanted) - found.keys()
        if gone:
            raise CorruptionError(
                f"{self.run.root}: sample {min(gone)} was judged, but its pixels are gone"
            )


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
    pictures = source.pictures([i for one in shown.values() for i in one.first])
    files = source.files([i for one in shown.values() for i in one.more])
    groups = [
        Group(
            tag,
            f"{found['tags'][tag]['correct']} of {found['tags'][tag]['images']} are right",
            [_card(i, rows[i], pictures[i]) for i in one.first],
            [_card(i, rows[i], files[i][0]) for i in one.more],
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
        files=dict(files.values()),
    )


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
    more: list[int]


def _picked(rows: Sequence[Row], tag: str) -> _Picked:
    """Some that are wrong, then some that are right; of each prompt one first."""
    prompts = {i: row["prompt"]["prompt"] for i, row in enumerate(rows) if row["tag"] == tag}
    wrong = [(i, prompt) for i, prompt in prompts.items() if not rows[i]["correct"]]
    right = [(i, prompt) for i, prompt in prompts.items() if rows[i]["correct"]]
    first = spread(wrong, WRONG)
    rest = [pair for pair in wrong if pair[0] not in first]
    return _Picked(first + spread(right, RIGHT), spread(rest, MORE))


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
            color = f", {colors[place]}" if place in colors else ""
            words = f"{name} {found['score']:.2f}{color}"
            marks.append(Mark(words, tuple(found["box"]), path, name in asked))
    prompt, reasons = row["prompt"]["prompt"], list(row["reasons"])
    return Card(index, uri, (width, height), prompt, row["correct"], reasons, marks)


def _colors_of(row: Row) -> dict[int, str]:
    """The colour that the classifier named, by the place of the detection."""
    found: dict[int, str] = {}
    for clause, words in row["colors"].items():
        kept = row["kept"].get(row["prompt"]["include"][int(clause)]["class"], [])
        found |= dict(zip(kept, words, strict=False))
    return found


def _dpg(source: _Source) -> VerdictSet:
    title, rows = f"DPG ({source.header['judge']['name']})", source.rows
    fault = fault_of(rows)
    if fault:
        return VerdictSet(title, source.place.name, len(rows), [], [], 100.0, (fault,))
    groups = answer_groups(rows, source.pictures, source.run.plan.size)
    bars = answer_bars(rows)
    return VerdictSet(title, source.place.name, len(rows), bars, groups, 100.0, (_JUDGES,))


def _scores(source: _Source) -> VerdictSet:
    found, rows = scores_summary(source.place), source.rows
    overall = {**found["overall_estimate"], "score": found["overall"]}
    scored = {**found["categories"], "mean": overall}
    most = max([*(one["score"] for one in scored.values()), 1e-9])
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["score"], i))
    ends = {"lowest": order[: WRONG + RIGHT], "highest": order[::-1][: WRONG + RIGHT]}
    pictures = source.pictures([i for places in ends.values() for i in places])
    height, width = source.run.plan.size
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


_BUILDERS: dict[str, Callable[[_Source], VerdictSet]] = {
    "geneval": _geneval,
    "dpg": _dpg,
    "scores": _scores,
}
