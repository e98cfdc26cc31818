"""The page of a sweep: curves with bands, heat maps, what was dropped, names that do nothing."""

import csv
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Outcome, call_main
from page_reader import HOSTILE, Page
from run_builder import add_attempt, make_plan, make_run
from store_server import s3_server, speaking_to

from evalsuite.artifacts.records import Protocol
from evalsuite.artifacts.storage import place_of
from evalsuite.errors import CorruptionError, UsageError
from evalsuite.report.sweep_page import render_sweep, write_sweep_report
from evalsuite.report.sweep_points import hours_per_image, points_of
from evalsuite.sweep.directory import (
    ConfigurationEntry,
    SweepDirectory,
    SweepManifest,
    place_from,
)
from evalsuite.sweep.tables import Fresh, RungRow, RungTable, SweepResult

SCALES, STEPS = (1.0, 1.5, 2.0, 3.0, 4.0), (5, 10)
AXES: dict[str, tuple[Any, ...]] = {
    "guidance_scale": SCALES,
    "num_steps": STEPS,
    "ema": (HOSTILE,),
}
NAMES = [f"guidance_scale={s:g}, num_steps={n}" for s, n in itertools.product(SCALES, STEPS)]
GONE = NAMES[-1]


def fid_of(scale: float, steps: float) -> float:
    """A U in guidance, lower with more steps; 2 and 10 are best."""
    return 3 + (scale - 2) ** 2 + 5 / steps


def make_sweep(root: Path, *, finished: bool = True, extrapolated: bool = False) -> SweepDirectory:
    """Ten configurations on two rungs, of which one is dropped after the first."""
    plan = make_plan()
    protocol = Protocol(
        metric="fid", num_samples=96, extractor="digits-convnet-5bb259a7",
        extractor_sha256="cd" * 32, resize="none", precision="float32", backend="torch",
        reference_sha256="ef" * 32, details={}, label_rule=None, uint8_rule=None, codec=None,
    )  # fmt: skip
    points = list(itertools.product(SCALES, STEPS))
    entries = tuple(
        ConfigurationEntry(
            name=name,
            setting={"guidance_scale": scale, "num_steps": steps},
            plan_id=plan.plan_id,
            run=f"../runs/{place}",
            nfe=2 * steps,
            batch_size=16,
        )
        for place, (name, (scale, steps)) in enumerate(zip(NAMES, points, strict=True))
    )
    manifest = SweepManifest(
        sweep_id="", model=HOSTILE, axes=AXES, configurations=entries, rungs=(48, 96),
        strategy="halving", metric="fid", better="lower", budget=None, first_seed=0,
        fresh_first_seed=10**7, protocol=protocol, protocol_name="digits",
        reference="digits-16-train", prefix="digits-",
    )  # fmt: skip
    manifest = manifest.model_copy(update={"sweep_id": manifest.identity})
    directory = SweepDirectory.create_or_open(root / "sweep", manifest)
    first = [row_of(name, *point) for name, point in zip(NAMES, points, strict=True)]
    first[-1] = first[-1].model_copy(update={"excluded": True, "goes_on": False})
    directory.write_rung(table_of(48, first, extrapolated=extrapolated))
    if finished:
        directory.write_rung(table_of(96, first[:-1], extrapolated=False))
        directory.write_result(result_of(entries[5]))
    return directory


def row_of(name: str, scale: float, steps: int) -> RungRow:
    value, best = fid_of(scale, steps), fid_of(2, 10)
    return RungRow(
        name=name,
        value=value,
        standard_error=0.25,
        ranked_by=value - 1,
        difference=value - best,
        difference_error=0.1,
        paired=True,
        half_width=None if value == best else 0.5,
        excluded=False,
        goes_on=True,
        others={"inception_score": 10 - abs(scale - 3)},
    )


def table_of(num_samples: int, rows: list[RungRow], *, extrapolated: bool) -> RungTable:
    ranked = tuple(sorted(rows, key=lambda row: row.value or 0.0))
    return RungTable(
        num_samples=num_samples, extrapolated=extrapolated, may_exclude=True, rows=ranked
    )


def result_of(winner: ConfigurationEntry) -> SweepResult:
    fresh = Fresh(
        run="../runs/f", value=3.75, standard_error=0.25, ranked_by=3.25, lost=0.25, lost_error=0.3
    )
    return SweepResult(
        winner=winner.name, plan_id=winner.plan_id, run=winner.run, num_samples=96, value=3.5,
        standard_error=0.25, ranked_by=3.0, level_with_winner=(NAMES[4],), samples=912,
        samples_of_grid=960, stopped_by_budget=False, fresh=fresh,
    )  # fmt: skip


def test_an_edited_result_is_refused(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    content = directory.storage.read("result.json")
    assert f'"winner": "{NAMES[5]}"'.encode() in content
    directory.storage.replace("result.json", content.replace(NAMES[5].encode(), NAMES[4].encode()))
    with pytest.raises(CorruptionError, match=r"result.json was edited.* same sweep command"):
        render_sweep(directory)


def part(text: str, name: str) -> Page:
    match = re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)
    assert match, f"no section {name}"
    return Page(f"<body>{match[0]}<script></script></body>")


def test_the_page_says_what_was_asked_and_found(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    text = render_sweep(directory)
    assert text == render_sweep(directory)
    assert HOSTILE not in text
    page = Page(text)
    ids = [a["id"] for a in page.attributes("section")]
    assert ids == ["asked", "curves", "maps", "against", "rungs", "provenance"]
    asked = part(text, "asked").text
    assert "guidance_scale: 1, 1.5, 2, 3, 4" in asked
    assert "Winnerguidance_scale=2, num_steps=10" in asked
    assert "digits-FID of 963.5000 ± 0.2500 extrapolated 3.0000" in asked
    assert "On fresh seeds3.7500 ± 0.2500 extrapolated 3.2500" in asked
    assert "So it lost+0.2500 ± 0.3000 from extrapolated 3.0000 to 3.2500" in asked
    assert "Names that begin with digits- are not the numbers" in page.text
    assert "digits-FID" in page.texts["dd"]
    assert "912, 95 % of the 960 of a grid" in asked


def test_metrics_are_called_as_records_call_them(tmp_path: Path) -> None:
    """Not by the extractor's name, which a file of the user may share with a registered one."""
    manifest = make_sweep(tmp_path).manifest
    protocol = manifest.protocol.model_copy(update={"extractor": "inception-2015-12-05-12345678"})
    mine = manifest.model_copy(update={"protocol": protocol, "prefix": "mine-"})
    assert mine.display == "mine-FID"
    assert mine.identity != manifest.identity


def test_the_curve_is_a_u_with_its_band(tmp_path: Path) -> None:
    """A line for each number of steps through the places of the values, with 1.96 errors."""
    text = render_sweep(make_sweep(tmp_path))
    curves = part(text, "curves")
    assert curves.texts["h3"] == ["guidance_scale", "num_steps"]
    lines = [a for a in curves.attributes("path") if (a["class"] or "").startswith("line")]
    first = [float(v) for v in re.findall(r"[-\d.]+", lines[0]["d"] or "")]
    xs, ys = first[::2], first[1::2]
    assert xs == sorted(xs)
    assert len(xs) == 4  # the fifth of this number of steps was dropped before this rung
    assert int(max(range(4), key=lambda i: ys[i])) == 2  # y grows downwards: the minimum at 2
    bands = [a for a in curves.attributes("path") if (a["class"] or "").startswith("band")]
    assert len(bands) == len(lines)
    assert "the 95 % interval of each value by itself" in curves.text
    tips = [a["data-tip"] or "" for a in curves.attributes("circle")]
    assert f"{NAMES[5]}: {fid_of(2, 10):.4f} [3.0100, 3.9900]" in tips
    assert "Rung of 96 samples, 9 configurations; the other rungs below." in curves.text
    legends = [li for li in curves.texts["li"] if "num_steps" in li]
    assert legends[0] == "num_steps=10"  # the line with the best value first


def test_an_extrapolated_rung_has_the_interval_of_differences(tmp_path: Path) -> None:
    text = render_sweep(make_sweep(tmp_path, finished=False, extrapolated=True))
    curves = part(text, "curves")
    assert "the interval of the difference from the leader" in curves.text
    tips = {a["data-tip"] for a in curves.attributes("circle")}
    assert f"{NAMES[0]}: {fid_of(1, 5) - 1:.4f} [3.5000, 4.5000]" in tips
    assert f"{NAMES[5]}: {fid_of(2, 10) - 1:.4f}" in tips
    assert "The sweep is not complete" in Page(text).text
    assert "No winner yet." in part(text, "asked").text


def test_heat_maps_show_every_cell_and_frame_the_best(tmp_path: Path) -> None:
    maps = part(render_sweep(make_sweep(tmp_path)), "maps")
    cells = maps.texts["td"]
    assert len(cells) == 2 * 10
    assert cells[:10] == [f"{fid_of(s, n):.4f}" for s, n in itertools.product(SCALES, STEPS)]
    assert cells[10:19] == cells[:9]
    assert cells[19] == ""
    best = [text for text, a in zip(cells, maps.attributes("td"), strict=True) if a.get("class")]
    assert best == [f"{fid_of(2, 10):.4f}"] * 2


def test_the_metric_stands_against_other_numbers(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for place in range(10):
        run = make_run(tmp_path / "runs" / str(place), num_images=32)
        add_attempt(run, cost={"gpu_hours": 0.5 * (1 + place)}, command="sweep")
    entries = directory.manifest.configurations
    hours = hours_per_image(directory, entries)
    assert hours.unit == "GPU-hours"
    assert hours.by_name[NAMES[3]] == pytest.approx(2.0 / 32)
    text = render_sweep(directory)
    against = part(text, "against")
    titles = [text for text in against.texts["p"] if text in {"digits-IS", "NFE per image"}]
    assert titles == ["digits-IS", "NFE per image"]
    assert "GPU-hours of 96 samples" in against.text
    tips = [a["data-tip"] or "" for a in against.attributes("circle")]
    assert len(tips) == 3 * 9
    assert f"{NAMES[3]}: {fid_of(1.5, 10):.4f} [3.2600, 4.2400]; GPU-hours of 96 samples 6" in tips
    assert part(text, "provenance").texts["pre"][0].startswith("evalsuite sweep \\")


def test_rungs_tell_who_was_dropped(tmp_path: Path) -> None:
    rungs = part(render_sweep(make_sweep(tmp_path)), "rungs")
    assert rungs.texts["h3"] == ["48 samples", "96 samples"]
    assert f"{GONE} 7.5000 ± 0.2500 +4.0000 [+3.5000, +4.5000] paired 9.0000 dropped" in rungs.text
    assert rungs.text.count("dropped") == 1
    assert rungs.text.count("leads") == 2


def test_metrics_that_are_not_registered_here_have_their_names(tmp_path: Path) -> None:
    """A sweep of a version that had others is shown all the same."""
    directory = make_sweep(tmp_path)
    for table in directory.rungs():
        rows = [row.model_copy(update={"others": {"beauty": 1.5}}) for row in table.rows]
        directory.write_rung(table.model_copy(update={"rows": tuple(rows)}))
    assert "digits-beauty" in part(render_sweep(directory), "rungs").texts["th"]
    assert directory.manifest.model_copy(update={"metric": "beauty"}).display == "digits-beauty"


def test_a_sweep_without_a_rung_has_nothing_to_show(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, finished=False)
    directory.storage.delete("rungs/00000048.json")
    with pytest.raises(UsageError, match="no rung is decided yet"):
        write_sweep_report(directory)


def test_axes_without_numbers_have_their_names(tmp_path: Path) -> None:
    points = points_of(make_sweep(tmp_path))
    assert [axis.name for axis in points.axes] == ["guidance_scale", "num_steps"]
    assert points.axes[0].numbers == SCALES
    assert points.rungs[0][1][0].places == {"guidance_scale": 2, "num_steps": 1, "ema": 0}
    assert [len(tried) for _, tried in points.rungs] == [10, 9]


def test_rungs_are_exported_as_tables(call: Callable[..., Outcome], tmp_path: Path) -> None:
    """With the same columns on every rung, of which one is extrapolated."""
    directory = make_sweep(tmp_path, extrapolated=True)
    outcome = call("status", directory.root, "--format", "csv")
    assert outcome.code == 0, outcome.stderr
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert len(rows) == 10 + 9
    first = "Rung of 48 samples, ranked by digits-FID extrapolated to infinite N"
    assert {row["table"] for row in rows} == {first, "Rung of 96 samples, ranked by digits-FID"}
    (row,) = (row for row in rows if row["fate"] == "dropped")
    assert {key: value for key, value in row.items() if key not in {"table", "notes"}} == {
        "configuration": GONE,
        "fate": "dropped",
        "digits-FID": "7.5000",
        "± error": "0.2500",
        "at infinite N": "6.5000",
        "behind": "+4.0000",
        "± of the difference": "0.5000",
        "digits-IS": "9.0000",
    }
    assert rows[-1]["at infinite N"] == ""
    latex = call("status", directory.root, "--format", "latex").stdout
    assert latex.count("\\toprule") == 2
    assert "guidance\\_scale=4, num\\_steps=10 & dropped & 7.5000" in latex
    (small, _), nan = directory.rungs(), "NaN or infinite values"
    gone = {"value": None, "standard_error": None, "ranked_by": None, "difference": None}
    faulty = small.rows[0].model_copy(update=gone | {"goes_on": False, "fault": nan})
    directory.write_rung(small.model_copy(update={"rows": (*small.rows[1:], faulty)}))
    again = call("status", directory.root, "--format", "csv").stdout
    (row,) = (row for row in csv.DictReader(io.StringIO(again)) if nan in row["fate"])
    assert (row["configuration"], row["fate"]) == (faulty.name, f"dropped: {nan}")
    run = make_run(tmp_path / "run", num_images=32)
    refused = call("status", run.root, "--format", "latex")
    assert (refused.code, refused.stdout) == (2, "")
    assert "is no sweep" in refused.complaints[-1]


def test_a_sweep_that_was_copied_to_a_store_finds_its_runs(tmp_path: Path) -> None:
    """Also where a bucket is the folder of both; a run that stayed outside is one line."""
    make_sweep(tmp_path)
    run = make_run(tmp_path / "runs" / "3", num_images=32)
    add_attempt(run, cost={"gpu_hours": 2.0}, command="sweep")
    with s3_server() as server, speaking_to(server.url):
        bucket = server.new_bucket()
        for path in tmp_path.rglob("*"):
            if path.is_file():
                key = f"copied/{path.relative_to(tmp_path).as_posix()}"
                server.raw.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        url = f"s3://{bucket}/copied/sweep"
        shown, written = call_main("status", url), call_main("report", url)
        found = SweepDirectory.open(place_of(url))
        hours = hours_per_image(found, found.manifest.configurations)
    assert (shown.code, written.code) == (0, 0), shown.stderr + written.stderr
    assert f"run s3://{bucket}/copied/runs/5" in shown.stdout
    assert written.stdout == f"{url}/report/index.html\n"
    assert hours.by_name == {NAMES[3]: pytest.approx(2.0 / 32)}


def test_references_within_a_store() -> None:
    for root, run, place in (
        ("s3://b/x/sweeps/a", "../../runs/r", "s3://b/x/runs/r"),
        ("s3://b/sweep", "../runs/r", "s3://b/runs/r"),
        ("s3://b", "runs/r", "s3://b/runs/r"),
        ("gs://b/sweep", "s3://other/r", "s3://other/r"),
    ):
        assert place_from(place_of(root), run) == place_of(place)
    for root in ("s3://b/sweep", "s3://b"):
        with pytest.raises(UsageError, match=r"refers to \.\./\.\./runs/r, which is outside"):
            place_from(place_of(root), "../../runs/r")
