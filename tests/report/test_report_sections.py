"""Sections that look into a run: classes, influence, neighbours, features, timeline, sheets."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import FinishedRun
from page_reader import HOSTILE, Page, decoded, page_of, section
from PIL import Image
from run_builder import add_attempt, add_record, add_shard, make_plan, make_run, pictures, renamed

from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.pipeline.analysis import NEEDS_FEATURES, class_table, features_of_run, neighbourhood
from evalsuite.pipeline.comparison_inputs import records_of_run
from evalsuite.pipeline.measure import Measure
from evalsuite.report.html import make_report, render_report, write_report
from evalsuite.report.sections.influence import EACH_END
from evalsuite.report.timeline import NUM_BINS, timelines_of
from evalsuite.runtime.observing import log as log_module
from evalsuite.runtime.observing.log import EventLog, log_path

NUM = 200


@pytest.fixture(scope="module")
def scored(digits_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """200 digits that were scored, one class with a hostile name. Not to be changed."""
    return renamed(digits_run.path, tmp_path_factory.mktemp("sections") / "run", HOSTILE)


@pytest.fixture(scope="module")
def text(scored: RunDirectory) -> str:
    return render_report(scored)


def part(text: str, name: str) -> Page:
    match = re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)
    assert match, f"no section {name}"
    return Page(f"<body>{match[0]}<script></script></body>")


def test_every_section_is_there_and_linked(text: str) -> None:
    page = Page(text)
    names = ["asked", "metrics", "samples", "influence", "classes", "neighbours", "features"]
    names += ["plan", "provenance", "timeline", "cost"]
    assert [a["id"] for a in page.attributes("section")] == names
    links = [a["href"] for a in page.attributes("a") if a["href"] != "#main"]
    assert links[: len(names)] == [f"#{name}" for name in names]
    assert HOSTILE not in text
    assert len(page.texts["script"]) == 1


def test_what_was_asked_and_what_was_measured(text: str, scored: RunDirectory) -> None:
    asked = part(text, "asked")
    fid = next(record for record in records_of_run(scored) if record.metric == "fid")
    assert fid.value is not None
    assert fid.standard_error is not None
    low, high = (fid.value + sign * 1.96 * fid.standard_error for sign in (-1, 1))
    assert f"{fid.display}{fid.value:.4f} 95 %: {low:.4f} to {high:.4f}" in asked.text
    assert "compared with digits-16-train, by protocol digits" in asked.text
    assert "Over the first 200 samples of 200 that are committed." in asked.text


def test_classes_are_the_shares_of_the_record(text: str, scored: RunDirectory) -> None:
    classes = part(text, "classes")
    fid = next(record for record in records_of_run(scored) if record.metric == "fid")
    shares = sorted(class_table(scored, fid).shares, key=lambda share: -share.influence)
    cells = [" ".join(cell.split()) for cell in classes.texts["td"]]
    rows = [cells[at : at + 5] for at in range(0, len(cells), 5)]
    assert [row[1] for row in rows] == [f"{share.influence:+.4f}" for share in shares]
    assert [row[4] for row in rows] == [f"{share.contribution:.4f}" for share in shares]
    assert [int(a["data-value"] or "") for a in classes.attributes("th") if "data-value" in a] == [
        share.label for share in shares
    ]
    spans = [a for a in classes.attributes("span") if a.get("data-tip")]
    assert len(spans) == 10
    for share, span in zip(sorted(shares, key=lambda one: one.label), spans, strict=True):
        assert span["class"] == ("costs" if share.influence > 0 else "earns")
        assert f"label {share.label} (" in (span["data-tip"] or "")
    assert f"sum to {fid.value:.4f}" in classes.text


def test_pictures_of_the_ends_are_those_samples(text: str, scored: RunDirectory) -> None:
    influence = part(text, "influence")
    fid = next(record for record in records_of_run(scored) if record.metric == "fid")
    values = np.load(scored.root / fid.influence_path)
    order = np.argsort(-values)
    shown = influence.attributes("img")
    assert len(shown) == 2 * EACH_END
    expected = [*order[:EACH_END], *order[::-1][:EACH_END]]
    pixels = dict(scored.read_images(0, NUM))
    for attributes, index in zip(shown, expected, strict=True):
        assert (attributes["alt"] or "").startswith(f"sample {index}, label {index % 10}")
        assert (attributes["alt"] or "").endswith(f"influence {values[index]:+.4g}")
        np.testing.assert_array_equal(decoded(attributes), pixels[index])


def test_neighbours_are_those_of_the_command(text: str, scored: RunDirectory) -> None:
    near = part(text, "neighbours")
    protocol = load_spec(ProtocolSpec, "digits")
    reference = open_reference("digits-16-train")
    extractor = load_spec(ExtractorSpec, "digits-convnet")
    by = Measure(extractor, reference, NEEDS_FEATURES, torch.device("cpu"), protocol)
    images = near.attributes("img")
    rows = [images[at : at + 6] for at in range(0, len(images), 6)]
    indices = [int(re.findall(r"sample (\d+)", row[0]["alt"] or "")[0]) for row in rows]
    assert indices[:6] == list(range(6))
    assert len(set(indices)) == 12
    found = neighbourhood(features_of_run(scored, indices, by), indices, by, 5).found
    assert reference.images is not None
    real = np.concatenate(list(reference.images.portions(1257)))
    for row, places, distances in zip(rows, found.indices_NQ, found.distances_NQ, strict=True):
        for attributes, place, distance in zip(row[1:], places, distances, strict=True):
            assert attributes["alt"] == f"reference image {place}, distance {distance:.4g}"
            np.testing.assert_array_equal(decoded(attributes), real[place])


def test_the_scatter_has_every_point_and_its_words(text: str, scored: RunDirectory) -> None:
    features = part(text, "features")
    circles = features.attributes("circle")
    assert len(circles) == NUM + 800
    samples = [a for a in circles if (a["data-tip"] or "").startswith("sample ")]
    assert [a["data-tip"].split(",")[0] for a in samples] == [f"sample {i}" for i in range(NUM)]  # type: ignore[union-attr]
    filled = sum("open" not in (a["class"] or "") for a in samples)
    assert f"Filled are {100 * filled / NUM:.1f} % of the drawn samples" in features.text
    precision = next(one for one in records_of_run(scored) if one.metric == "precision")
    assert f"{precision.display} {precision.value:.4f} ±" in features.text
    assert len(features.attributes("path")) == 2


def test_a_reference_of_other_bytes_is_not_shown(scored: RunDirectory, tmp_path: Path) -> None:
    """Nor one that has no registered name: nothing is taken from elsewhere by its name."""
    for changes in ({"reference": "nobody"}, {"protocol": "other"}):
        run = RunDirectory(scored.storage, scored.manifest)
        records = [
            record.model_copy(
                update={"reference": changes.get("reference", record.reference)}
                | (
                    {"protocol": record.protocol.model_copy(update={"reference_sha256": "0" * 64})}
                    if "protocol" in changes
                    else {}
                )
            )
            for record in records_of_run(scored)
        ]
        from evalsuite.report.reference_view import view_reference

        assert view_reference(run, records) is None
        assert view_reference(run, records_of_run(scored)) is not None


def test_pictures_that_were_not_kept_are_named(tmp_path: Path) -> None:
    """Of a run with influence values and no pixels."""
    run = make_run(tmp_path / "run", keep="none")
    write_influence(run, 96)
    influence = section(run, "influence")
    assert not influence.attributes("img")
    assert "No pixels were kept, so there are no pictures." in influence.text
    assert "those that cost most are 95, 94, 93" in influence.text
    assert "earn most 0, 1, 2" in influence.text


def test_pictures_are_the_ends_of_what_was_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", keep="none", num_images=64)
    add_shard(run, 64, 96, "all", "0a0b0c0d")
    write_influence(run, 96)
    influence = section(run, "influence")
    shown = [int(re.findall(r"\d+", a["alt"] or "")[0]) for a in influence.attributes("img")]
    assert shown == [*range(95, 95 - EACH_END, -1), *range(64, 64 + EACH_END)]
    assert "The pixels of 32 of 96 samples were kept" in influence.text


def write_influence(run: RunDirectory, count: int) -> None:
    """A record whose influence values rise with the index."""
    record = add_record(run, "fid", count, 5.0, standard_error=0.1)
    buffer = io.BytesIO()
    np.save(buffer, np.arange(count) - (count - 1) / 2)
    run.storage.replace(record.influence_path, buffer.getvalue())


def test_more_classes_stand_on_sheets_that_open_on_demand(tmp_path: Path) -> None:
    names = [f"<b>{number}</b>" for number in range(30)]
    run = make_run(tmp_path / "run", plan=make_plan(num_classes=30), names=names)
    report = make_report(run)
    assert list(report.files) == ["samples/0000.png"]
    sheet = np.asarray(Image.open(io.BytesIO(report.files["samples/0000.png"])).convert("RGB"))
    assert sheet.shape == (10 * 18 - 2, 3 * 16, 3)
    for row, label in enumerate(range(20, 30)):
        for column, index in enumerate(range(label, 96, 30)):
            pixels = sheet[row * 18 : row * 18 + 16, column * 16 : column * 16 + 16]
            np.testing.assert_array_equal(pixels, pictures(run.plan, index, index + 1)[0])
    samples = part(report.html, "samples")
    lazy = [a for a in samples.attributes("img") if a.get("loading") == "lazy"]
    assert [a["src"] for a in lazy] == ["samples/0000.png"] * 10
    assert lazy[3]["alt"] == "samples 23, 53, 83 of label 23 (<b>23</b>)"
    assert "--place: 100%" in (lazy[-1]["style"] or "")
    assert "<b>23" not in report.html


def test_sheets_of_an_older_report_go_and_other_files_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", plan=make_plan(num_classes=30), names=None)
    path = write_report(run)
    assert isinstance(path, Path)
    (path.parent / "samples" / "0007.png").write_bytes(b"old")
    (path.parent / "notes.txt").write_text("mine")
    write_report(run)
    found = sorted(str(p.relative_to(path.parent)) for p in path.parent.rglob("*") if p.is_file())
    assert found == ["index.html", "notes.txt", "samples/0000.png"]


def test_large_images_are_small_on_sheets(tmp_path: Path) -> None:
    plan = make_plan(num_classes=21, size=(96, 192))
    report = make_report(make_run(tmp_path / "run", plan=plan, names=None, num_images=32))
    picture = Image.open(io.BytesIO(report.files["samples/0000.jpg"]))
    assert picture.size == (96, 48)


def test_a_timeline_adds_up_and_tells_of_failures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    lines = [
        {"time": "2026-01-31T12:00:28.5+00:00", "level": "warning", "event": "worker-lost",
         "worker": "worker-1", "host": "vm", "pid": 4000, "reason": HOSTILE},
        {"time": "2026-01-31T12:00:26+00:00", "level": "info", "event": "worker-ready"},
        {"time": "2026-01-31T12:00:29+00:00", "level": "warning", "event": "shard-retried",
         "shard": "0000000032-0000000064"},
        {"time": "no time", "level": "error", "event": "failed"},
    ]  # fmt: skip
    log = "\n".join([*map(json.dumps, lines), '{"time": "2026-01-31T12:0'])
    run.storage.replace("attempts/1f2e3d4c.log.jsonl", log.encode())
    (line,) = timelines_of(run, run.committed(IMAGES))
    assert line.stop - line.start == 5
    assert sum(line.speeds) * 5 / NUM_BINS == pytest.approx(96)
    assert [(lane.images, lane.name) for lane in line.lanes] == [
        (64, "vm · cpu · pid 4000"),
        (32, "vm · cpu · pid 4032"),
    ]
    assert [one.what for one in line.failures] == [
        "worker lost",
        "shard tried again (samples 0000000032-0000000064)",
    ]
    assert [len(lane.failures) for lane in line.lanes] == [1, 0]
    shown = section(run, "timeline")
    assert "+3.5 s worker lost worker-1 on vm <script>alert(1)</script>" in shown.text
    assert HOSTILE not in render_report(run)
    assert [a["x"] for a in shown.attributes("rect") if a["class"] == "failure"] == ["70.0%"]


def test_the_log_tells_more_than_whole_seconds(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_images=32)
    line = {"time": "2026-01-31T12:00:30.75+00:00", "level": "info", "event": "shard-committed",
            "attempt": "1f2e3d4c-00000"}  # fmt: skip
    run.storage.replace("attempts/1f2e3d4c.log.jsonl", json.dumps(line).encode())
    (found,) = timelines_of(run, run.committed(IMAGES))
    assert found.stop % 60 == 30.75
    assert found.stop - found.start == 5


def test_a_log_in_segments_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an object store has it, where nothing is appended."""
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(log_module, "_local_path", lambda *_: None)
    monkeypatch.setattr(log_module, "SEGMENT_BYTES", 1)
    log = EventLog(run, "1f2e3d4c")
    for number in range(12):
        log.note("worker-lost", "warning", reason=f"loss {number}")
    log.close()
    assert len(run.storage.names("attempts", ".log.jsonl")) == 12
    assert run.storage.find(log_path("1f2e3d4c")) is None
    (line,) = timelines_of(run, run.committed(IMAGES))
    assert [one.reason for one in line.failures] == [f"loss {number}" for number in range(12)]


def test_an_invocation_that_was_killed_has_a_timeline(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_images=32)
    assert "Invocation 1f2e3d4c, without an end" in section(run, "timeline").text
    add_attempt(run)
    assert "Invocation 1 2026-01-31 12:00:25 UTC, 5.0 s" in section(run, "timeline").text


def test_cost_has_hours_energy_and_money_where_they_are_known(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    cost = {"gpu_hours": 2.5, "energy_joules": 7.2e6, "price_per_gpu_hour": 3.0, "money": 7.5}
    add_attempt(run, cost=cost)
    shown = section(run, "cost")
    facts = dict(zip(shown.texts["dt"], shown.texts["dd"], strict=True))
    assert facts["GPU-hours"] == "2.5"
    assert facts["Energy of GPUs"] == "2 kWh"
    assert facts["Money"] == "7.50"
    assert "GPU-hours at 3 an hour" in shown.text
    add_attempt(run, cost={"gpu_hours": 2.5})
    unknown = section(run, "cost")
    assert {"Energy of GPUs", "Money"}.isdisjoint(unknown.texts["dt"])
    assert "no price was given; energy was not measured" in unknown.text


def test_data_uris_are_images(text: str) -> None:
    for attributes in Page(text).attributes("img"):
        kind, _, content = (attributes["src"] or "").partition(";base64,")
        assert kind in {"data:image/png", "data:image/jpeg"}
        assert base64.b64decode(content, validate=True)
        assert attributes["alt"]


def test_a_page_without_results_has_no_empty_section(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    ids = [a["id"] for a in page.attributes("section")]
    assert ids == ["asked", "metrics", "samples", "plan", "provenance", "timeline", "cost"]
