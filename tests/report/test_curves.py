"""Curves and their figures: what shares a line, what is refused, equal data in every format."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from board_kit import BAD_NAME, make_record, plan_of, write_records
from harness import Outcome
from run_builder import make_run

from evalsuite.artifacts.records import Record
from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.comparison_inputs import Entry, entry_of_records
from evalsuite.report.curve_page import render_curves
from evalsuite.report.curves import (
    Curves,
    are_wide,
    columns_of,
    curve_rows,
    curves_of,
    curves_table,
)
from evalsuite.report.figures import figure_of_curves
from evalsuite.report.tables import TableFormat, render

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


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--x", "guidance_scale"), 2, "give --output FILE, or --format csv"),
        (("--x", "guidance_scale", "--output", "a.gif"), 2, "must end in .png, .pdf, .svg, .html"),
        (("--x", "guidance_scale", "--output", "no/a.png"), 5, "its folder must exist"),
        (("--x", "scale", "--output", "a.png"), 3, "no input has a number for both fid and scale"),
        (("--x", "nfe", "--y", "kid", "--output", "a.png"), 2, "--y kid: no input has such"),
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
