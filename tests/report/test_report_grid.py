"""The report's grid of samples: which are shown, how large, and none that was damaged."""

import re
from pathlib import Path

import numpy as np
import pytest
from page_reader import decoded, page_of, section
from run_builder import (
    NAMES,
    add_shard,
    make_plan,
    make_run,
    pictures,
)

from evalsuite.config import LabelRule
from evalsuite.errors import CorruptionError
from evalsuite.report import grid
from evalsuite.report.html import render_report, write_report
from evalsuite.seeding import labels_of


def test_the_grid_shows_the_first_samples_of_each_class(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    samples = section(run, "samples")
    assert [re.sub(r"\s+", " ", th) for th in samples.texts["th"]][:2] == [
        "zero label 0",
        "one label 1",
    ]
    images = samples.attributes("img")
    assert len(images) == 8 * 10
    for place, attributes in enumerate(images):
        index = place // 8 + 10 * (place % 8)
        text = f"sample {index}, label {index % 10} ({NAMES[index % 10]}), seed {1000 + index}"
        assert attributes["alt"] == attributes["title"] == text
        np.testing.assert_array_equal(decoded(attributes), pictures(run.plan, index, index + 1)[0])
    assert "more" not in samples.text


def test_more_classes_than_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "MOST_CLASSES", 25)
    run = make_run(tmp_path / "run", plan=make_plan(num_classes=30), names=None)
    samples = section(run, "samples")
    assert len(samples.attributes("tr")) == 25
    assert samples.texts["th"][0] == "label 0"
    assert "25 of 30 classes are shown; there are 5 more." in samples.text
    assert samples.attributes("img")[0]["alt"] == "sample 0, label 0, seed 1000"


def test_samples_that_an_earlier_invocation_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", keep="none", num_images=64)
    add_shard(run, 64, 96, "all", "0a0b0c0d")
    images = section(run, "samples").attributes("img")
    assert len(images) == 32
    assert images[0]["alt"] == "sample 70, label 0 (zero), seed 1070"


def test_large_images_are_reduced_and_the_file_stays_small(tmp_path: Path) -> None:
    plan = make_plan(num_classes=20, size=(96, 160))
    run = make_run(tmp_path / "run", plan=plan, names=None, num_images=160)
    path = write_report(run)
    images = page_of(run).attributes("img")
    assert len(images) == 160
    assert path.stat().st_size < 3_000_000
    height, width, _ = decoded(images[0]).shape
    assert max(height, width) in {128, 96, 64, 48, 32}
    assert width / height == pytest.approx(160 / 96, rel=0.05)
    assert f"Shown as JPEG of at most {width} pixels a side" in page_of(run).text


def test_images_above_the_crisp_size_are_thumbnails_even_when_few(tmp_path: Path) -> None:
    small = make_run(tmp_path / "small", plan=make_plan(size=(64, 64)), num_images=32)
    large = make_run(tmp_path / "large", plan=make_plan(size=(72, 72)), num_images=32)
    kinds = [page_of(run).attributes("img")[0]["src"] or "" for run in (small, large)]
    assert [kind.partition(";")[0] for kind in kinds] == ["data:image/png", "data:image/jpeg"]


def test_no_class_has_more_samples_than_the_grid_has_columns(tmp_path: Path) -> None:
    rule = LabelRule(rule="random", seed=3)
    plan = make_plan(num_classes=5).model_copy(update={"labels": rule})
    run = make_run(tmp_path / "run", plan=plan, names=None)
    shown = [i["alt"] for i in section(run, "samples").attributes("img")]
    labels = labels_of(plan, 0, 96)
    for label in range(5):
        first = [i for i, known in enumerate(labels) if known == label][:8]
        expected = [f"sample {i}, label {label}, seed {1000 + i}" for i in first]
        assert [text for text in shown if text and f"label {label}," in text] == expected


def test_the_search_for_samples_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", plan=make_plan(num_classes=30), names=None)
    monkeypatch.setattr(grid, "_SCAN_PIXELS", 32 * 16 * 16)
    assert [i["alt"] for i in section(run, "samples").attributes("img")][:3] == [
        "sample 0, label 0, seed 1000",
        "sample 30, label 0, seed 1030",
        "sample 1, label 1, seed 1001",
    ]


def test_corrupted_pixels_are_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    shard = sorted((run.root / "images").iterdir())[0]
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(CorruptionError):
        render_report(run)
