"""Curves and their figures: what shares a line, what is refused, equal data in every format."""

import base64
import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from board_kit import BAD_NAME, make_record, plan_of, write_records
from harness import Outcome
from PIL import Image
from run_builder import add_record, make_run

from evalsuite.artifacts.records import UNSEALED, Record
from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.comparison_inputs import Entry, entry_of_records
from evalsuite.report.curve_page import render_curves
from evalsuite.report.curve_tables import columns_of, curve_rows, curves_table
from evalsuite.report.curves import Curves, are_wide, curves_of
from evalsuite.report.figures import figure_of_curves, figure_of_map
from evalsuite.report.rankings import RANKED, Ranking
from evalsuite.report.tables import TableFormat, render
from evalsuite.sweep.tables import RungRow

MODEL = "pixnerd-xl-256"


def entry(
    where: str, scale: float, *records: Record, tags: dict[str, str] | None = None, name: str = "A"
) -> Entry:
    plan = plan_of(MODEL, guidance_scale=scale)
    found = records or (make_record(1 + (scale - 2) ** 2, 0.02, plan=plan),)
    return entry_of_records(name, where, found, tags or {})


def points(found: Curves, place: int = 0) -> list[tuple[float, float]]:
    return [(point.x, point.y) for point in found.curves[place].points]


def test_a_curve_is_by_its_axis_and_has_a_95_percent_band() -> None:
    found = curves_of([entry("b", 3.0), entry("a", 1.0), entry("c", 2.0)], "guidance_scale", "fid")
    assert points(found) == [(1.0, 2.0), (2.0, 1.0), (3.0, 2.0)]
    assert found.curves[0].label == found.y_title == "FID-50K"
    rows = curve_rows(found)
    assert rows[1]["guidance_scale"] == 2
    assert rows[1]["low"] == pytest.approx(1.0 - 1.96 * 0.02)
    assert rows[1]["high"] == pytest.approx(1.0 + 1.96 * 0.02)
    assert rows[1]["run"] == "c"
    by_full_name = curves_of([entry("a", 1.0)], "sampling.guidance_scale", "fid")
    assert points(by_full_name) == [(1.0, 2.0)]


def test_costs_tags_steps_and_other_metrics_are_axes() -> None:
    plan = plan_of(MODEL, guidance_scale=1.5)
    records = (
        make_record(3.0, plan=plan, gpu_hours=7.0),
        make_record(200.0, 1.0, metric="inception_score", plan=plan),
    )
    one = entry("a", 1.5, *records, tags={"lr": "1e-4", "train_step": "5000", "word": "x"})
    for axis, x in (
        ("gpu_hours", 7.0),
        ("tag.lr", 1e-4),
        ("train_step", 5000.0),
        ("inception_score", 200.0),
        ("num_samples", 50_000.0),
        ("num_steps", 100.0),
    ):
        assert points(curves_of([one], axis, "fid")) == [(x, 3.0)]
    with pytest.raises(DataError, match=r"both fid and tag\.word"):
        curves_of([one], "tag.word", "fid")
    with pytest.raises(DataError, match=r"did you mean 'guidance_scale'\?"):
        curves_of([one], "guidance_scal", "fid")
    with pytest.raises(UsageError, match="did you mean 'fid'"):
        curves_of([one], "train_step", "fidd")


def test_a_metric_on_the_axis_is_of_the_same_reference() -> None:
    plan = plan_of(MODEL, guidance_scale=2.0)
    told = [{"plan": plan, "reference": name, "reference_sha256": 64 * name} for name in ("a", "b")]
    none = {"plan": plan, "metric": "inception_score", "reference": None, "reference_sha256": None}
    unnamed = {**told[1], "protocol_name": None, "metric": "sfid"}
    records = (
        make_record(2.0, **told[0]),
        make_record(3.0, **told[1]),
        make_record(7.0, **told[0], metric="sfid"),
        make_record(8.0, **unnamed),
        make_record(200.0, **none),
    )
    one = entry("here", 2.0, *records)
    for x, y, pairs in (
        ("sfid", "fid", {(7.0, 2.0), (8.0, 3.0)}),
        ("inception_score", "fid", {(200.0, 2.0), (200.0, 3.0)}),
    ):
        found = curves_of([one], x, y)
        assert {(point.x, point.y) for curve in found.curves for point in curve.points} == pairs
    with pytest.raises(UsageError, match=r"here has several results of fid for IS-50K.* on --y"):
        curves_of([one], "fid", "inception_score")


def test_no_line_goes_through_two_protocols_or_two_sizes_of_sample() -> None:
    plan = plan_of(MODEL, guidance_scale=2.0)
    records = (
        make_record(2.0, plan=plan),
        make_record(2.5, plan=plan, num_samples=10_000),
        make_record(1.9, plan=plan, protocol="jit"),
    )
    found = curves_of([entry("a", 2.0, *records)], "guidance_scale", "fid")
    assert [curve.label for curve in found.curves] == [
        "adm, N = 10,000",
        "adm, N = 50,000",
        "jit, N = 50,000",
    ]
    assert [len(curve.points) for curve in found.curves] == [1, 1, 1]
    only = curves_of([entry("a", 2.0, *records)], "guidance_scale", "fid", None, 50_000, "jit")
    assert points(only) == [(2.0, 1.9)]


def test_runs_that_differ_in_more_than_the_axis_need_a_group() -> None:
    entries = []
    for steps in (50, 100):
        plan = plan_of(MODEL, guidance_scale=2.0, num_steps=steps)
        entries.append(entry(f"r{steps}", 2.0, make_record(steps / 10, plan=plan)))
    said = r"r100 and r50 are both at guidance_scale = 2 and differ in sampling\.num_steps"
    with pytest.raises(UsageError, match=said):
        curves_of(entries, "guidance_scale", "fid")
    found = curves_of(entries, "guidance_scale", "fid", "num_steps")
    assert [curve.label for curve in found.curves] == ["num steps 50", "num steps 100"]


def test_replicates_become_their_mean_and_overlapping_ones_are_refused() -> None:
    plans = [plan_of(MODEL, seed, guidance_scale=2.0) for seed in (0, 10**7, 1000)]
    one, two, overlap = (
        entry(f"r{i}", 2.0, make_record(value, 0.03, plan=plan))
        for i, (value, plan) in enumerate(zip((2.0, 3.0, 2.2), plans, strict=True))
    )
    (curve,) = curves_of([one, two, one], "guidance_scale", "fid").curves
    (point,) = curve.points
    assert point.y == 2.5
    assert point.error == pytest.approx(0.03 / 2**0.5)
    assert point.runs == ("r0", "r1")
    with pytest.raises(UsageError, match="ranges of seeds overlap"):
        curves_of([one, overlap], "guidance_scale", "fid")


def test_inputs_without_a_place_are_named() -> None:
    plan = plan_of(MODEL, guidance_scale=3.0)
    undefined = entry("nan", 3.0, make_record(None, None, plan=plan))
    found = curves_of([entry("a", 1.0), undefined], "guidance_scale", "fid")
    assert found.left_out == ("nan: its fid is undefined",)
    assert "left out: nan" in render([curves_table(found)], TableFormat.MARKDOWN)


def several() -> Curves:
    entries: Sequence[Entry] = [
        entry(f"run {group} {scale}", scale, tags={"by": group}, name=group)
        for group in (BAD_NAME, "$x$")
        for scale in (1.0, 1.5, 6.0)
    ]
    return curves_of(entries, "guidance_scale", "fid", "tag.by")


@pytest.mark.parametrize(
    ("kind", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_figures_are_equal_for_equal_data(kind: str, begins: bytes) -> None:
    found = several()
    content = figure_of_curves(found, kind)
    assert content.startswith(begins)
    assert content == figure_of_curves(found, kind)


def test_the_page_holds_the_data_of_the_csv_and_escapes_names() -> None:
    found = several()
    assert are_wide(found) == (False, True)
    page = render_curves(found)
    assert page == render_curves(found)
    assert BAD_NAME not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert BAD_NAME in [curve["label"] for curve in data["curves"]]
    drawn = [
        (curve["label"], x, y, 2 * half)
        for curve in data["curves"]
        for x, y, half in zip(curve["x"], curve["y"], curve["half_width"], strict=True)
    ]
    rows = curve_rows(found)
    expected = [
        (row["curve"], row["guidance_scale"], row["fid"], row["high"] - row["low"]) for row in rows
    ]
    assert [one[:3] for one in drawn] == [one[:3] for one in expected]
    assert [one[3] for one in drawn] == pytest.approx([one[3] for one in expected])
    assert "connect-src" not in page
    assert "default-src 'none'" in page


def ranking(*rows: tuple[str, float, float | None, float | None], count: int = 2000) -> Ranking:
    """A rung of the sweep A that ranks by the extrapolated distance: run, value, limit, width."""
    made = {
        (run, count): RungRow(
            name=run, value=value, standard_error=0.02, ranked_by=limit,
            difference=None if limit is None else limit - 1.0, difference_error=0.1, paired=True,
            half_width=width, excluded=False, goes_on=True, others={},
        )
        for run, value, limit, width in rows
    }  # fmt: skip
    protocol = make_record(1.0).protocol
    return Ranking("A", "fid", "FID", protocol, frozenset({count}), made)


def swept(value: float, scale: float, count: int = 2000) -> Record:
    return make_record(value, 0.02, plan=plan_of(MODEL, guidance_scale=scale), num_samples=count)


def test_a_sweep_is_drawn_by_what_its_rungs_rank_by() -> None:
    """The leader has no width, a value without an interval no band, a plain rung its own error."""
    entries = [
        entry("a", 1.0, swept(9.0, 1.0), swept(1.2, 1.0, 50_000)),
        entry("b", 2.0, swept(8.0, 2.0), swept(8.0, 2.0).model_copy(update={"value": 7.5})),
        entry("c", 3.0, swept(8.5, 3.0)),
        entry("d", 4.0, swept(8.7, 4.0)),
    ]
    small = ranking(("a", 9.0, 1.0, None), ("b", 8.0, 1.5, 0.25), ("c", 8.5, 1.7, None))
    large = ranking(("a", 1.2, 1.2, None), count=50_000)
    both = small._replace(rows={**small.rows, **large.rows})
    found = curves_of(entries, "guidance_scale", RANKED, rankings=[both])
    plain, limits = sorted(found.curves, key=lambda curve: len(curve.points))
    assert (plain.label, limits.label) == (
        "N = 50,000",
        "N = 2,000, extrapolated to infinite N",
    )
    assert [(p.x, p.y, p.error, p.half_width) for p in limits.points] == [
        (1.0, 1.0, None, 0.0),
        (2.0, 1.5, None, 0.25),
        (3.0, 1.7, None, None),
    ]
    assert plain.points[0].half_width == pytest.approx(1.96 * 0.02)
    assert found.y_title == "FID, as its rungs rank"
    assert found.left_out == ("d: no rung ranks it",)
    only = curves_of(entries[:3], "guidance_scale", RANKED, None, 2000, rankings=[both])
    assert only.y_title == "FID, extrapolated to infinite N"
    table = render([curves_table(only)], TableFormat.MARKDOWN)
    assert "± of the difference" in table
    assert re.search(r"\| leads +\|", table)
    leader, second, last = curve_rows(only)
    assert (leader["low"], leader["high"]) == (None, None)  # a width of 0 would be certainty
    assert leader["note"].startswith("leads its rung: differences are from it")
    assert (second["low"], second["high"]) == (1.25, 1.75)
    assert second["note"].startswith("low and high are the interval of the difference from the")
    assert (last["low"], last["note"]) == (None, "")
    assert "difference from the leader" in render_curves(only)
    with pytest.raises(UsageError, match="fid and kid"):
        curves_of(entries, "guidance_scale", RANKED, rankings=[both, both._replace(metric="kid")])


def test_a_run_that_was_scored_again_stays_in_the_sweep_with_the_rungs_own_numbers() -> None:
    """Scoring promises 1e-9, not bits; a value that differs by more is of another measurement."""
    again = {1.0: math.nextafter(9.0, 10), 2.0: math.nextafter(8.0, 0), 3.0: 8.5 * (1 + 1e-6)}
    entries = [entry(f"{scale:g}", scale, swept(y, scale)) for scale, y in again.items()]
    limits = ranking(("1", 9.0, 1.0, None), ("2", 8.0, 1.5, 0.25), ("3", 8.5, 1.7, 0.25))
    plain = limits._replace(extrapolated=frozenset())
    for of, drawn in ((limits, [(1.0, 1.0), (2.0, 1.5)]), (plain, [(1.0, 9.0), (2.0, 8.0)])):
        found = curves_of(entries, "guidance_scale", RANKED, rankings=[of])
        assert points(found) == drawn
        assert found.left_out == ("3: no rung ranks it",)


def test_plain_values_of_a_sweep_say_what_they_are() -> None:
    entries = [entry("a", 1.0, swept(9.0, 1.0), swept(1.2, 1.0, 50_000))]
    rankings = [ranking(("a", 9.0, 1.0, None))]
    found = curves_of(entries, "guidance_scale", "fid", None, 2000, rankings=rankings)
    (note,) = found.notes
    assert note.startswith("plain FID of 2,000 samples is biased")
    assert note in render([curves_table(found)], TableFormat.CSV)
    assert note in render_curves(found)
    assert [row["note"] for row in curve_rows(found)] == [note]
    large = curves_of(entries, "guidance_scale", "fid", None, 50_000, rankings=rankings)
    assert large.notes == ()
    assert [row["note"] for row in curve_rows(large)] == [""]


def grid(*counts: int) -> Curves:
    entries = []
    for steps, scale in ((5, 1.0), (5, 2.0), (10, 2.0)):
        plan = plan_of(MODEL, guidance_scale=scale, num_steps=steps)
        records = [make_record(scale + 1 / steps, plan=plan, num_samples=count) for count in counts]
        entries.append(entry_of_records("A", f"{steps} {scale}", records, {}))
    return curves_of(entries, "guidance_scale", "fid", "num_steps")


def test_a_map_shows_every_cell_and_mixes_nothing() -> None:
    found = grid(10_000)
    content = figure_of_map(found, "svg")
    assert content == figure_of_map(found, "svg")
    said = re.findall(r"<!-- (.*?) -->", content.decode())
    cells = [text for text in said if re.fullmatch(r"\d\.\d{4}", text)]
    assert cells == ["1.2000", "2.2000", "2.1000"]  # and none where no configuration stands
    assert {"num steps 5", "num steps 10"} <= set(said)
    assert "FID-10K; the best in bold" in said
    with pytest.raises(UsageError, match="give --num-samples 10000 or 50000"):
        figure_of_map(grid(10_000, 50_000), "png")


def test_numbers_of_a_map_can_be_read_on_every_colour() -> None:
    """By WCAG 2.1, 1.4.3: black text on a ground whose relative luminance gives 4.5 to 1."""
    content = figure_of_map(grid(10_000), "svg").decode()
    numbers = re.findall(r"<!-- \d\.\d{4} -->\s*<g ([^>]*)>", content)
    assert len(numbers) == 3
    assert not [one for one in numbers if "fill" in one]  # which is black
    (picture,) = re.findall(r"base64,([^\"]*)\"", content)
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA")
    colours = {
        tuple(colour[:3])
        for colour in np.unique(np.asarray(image).reshape(-1, 4), axis=0).tolist()
        if colour[3]
    }
    assert len(colours) == 3
    assert min(map(luminance, colours)) > 4.5 * 0.05 - 0.05


def luminance(colour: Sequence[int]) -> float:
    """Of a bright enough colour of sRGB, 0 to 1."""
    red, green, blue = (((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def files(folder: Path) -> list[Path]:
    found = []
    for scale in (1.0, 2.0):
        plan = plan_of(MODEL, guidance_scale=scale)
        found.append(write_records(folder / f"{scale}.json", make_record(scale, plan=plan)))
    return found


def test_the_command_writes_what_it_prints(call: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = call(
        *("plot", *files(tmp_path), "--x", "guidance_scale", "--format", "csv"),
        *("--output", "curve.svg"),
    )
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr == "curve.svg\n"
    assert (tmp_path / "curve.svg").read_bytes().startswith(b"<?xml")
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [(row["guidance_scale"], row["fid"]) for row in rows] == [("1", "1.0"), ("2", "2.0")]
    assert list(rows[0]) == columns_of(several())
    latex = call("plot", *files(tmp_path), "--x", "guidance_scale", "--format", "latex")
    assert "\\toprule" in latex.stdout


def test_runs_without_numbers_are_left_out(call: Callable[..., Outcome], tmp_path: Path) -> None:
    make_run(tmp_path / "new", num_images=32)
    command = ("plot", "new", "--x", "guidance_scale", "--format", "csv")
    alone = call(*command)
    assert (alone.code, alone.stdout) == (3, "")
    assert "no input has numbers yet" in alone.stderr
    outcome = call(*command, *files(tmp_path))
    assert outcome.code == 0
    assert "left out: new has no numbers yet" in outcome.stderr


def test_records_without_their_hashes_are_said(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", num_images=32)
    for metric in ("fid", "sfid"):
        record = add_record(run, metric, 32, 1.0)
        run.write_json(record.path, record.model_dump(mode="json") | {"record_sha256": None})
    outcome = call("plot", "run", "--x", "guidance_scale", "--format", "markdown")
    assert outcome.code == 0, outcome.stderr
    for text in (outcome.stderr, outcome.stdout):
        assert f"digits-FID-32 of run and 1 more: {UNSEALED}" in text.replace("\\", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--x", "guidance_scale"), 2, "give --output FILE, or --format csv"),
        (("--x", "guidance_scale", "--output", "a.gif"), 2, "must end in .png, .pdf, .svg, .html"),
        (("--x", "guidance_scale", "--output", "no/a.png"), 5, "its folder must exist"),
        (("--x", "scale", "--output", "a.png"), 3, "no input has a number for both fid and scale"),
        (("--x", "nfe", "--y", "kid", "--output", "a.png"), 2, "--y kid: no input has such"),
        (("--x", "nfe", "--map", "--output", "a.png"), 2, "--map needs a --group"),
        (("--x", "nfe", "--y", "ranked_by", "--output", "a.png"), 2, "and no input is one"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], code: int, said: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call("plot", *files(tmp_path), *arguments)
    assert (outcome.code, outcome.stdout) == (code, "")
    (line,) = outcome.complaints
    assert said in line
    assert not list(tmp_path.glob("*.png"))
