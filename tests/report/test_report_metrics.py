"""The report's section on metrics: what stands in it, and what never does."""

import json
import re
from pathlib import Path

import pytest
from page_reader import page_of, section
from run_builder import (
    add_record,
    make_run,
    make_scored_run,
)

from evalsuite import load_run
from evalsuite.artifacts.records import UNSEALED, Record
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.analysis import records_of
from evalsuite.pipeline.comparison_inputs import open_entry
from evalsuite.report.html import render_report

NOTHING = "\N{EN DASH}"


def test_inception_needs_no_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_record(run, "fid", 96, 2.0, prefix="", extractor="inception")
    assert "Names that begin with" not in page_of(run).text
    add_record(run, "inception_score", 96, 2.0, prefix="IS-net-", extractor="other", reference=None)
    assert "Names that begin with IS-net- are not" in page_of(run).text


def test_metrics_are_grouped_by_count_and_ordered(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    metrics = section(run, "metrics")
    assert [h for h in metrics.texts["h3"] if "samples" in h] == ["90 samples", "50 samples"]
    names = [re.sub(r"\s+", " ", th).strip() for th in metrics.texts["th"] if "digits-" in th]
    assert names == [
        "digits-FID-90 ↓ (lower is better)",
        "digits-sFID-90 ↓ (lower is better)",
        "digits-IS-90 ↑ (higher is better)",
        "digits-Precision-90 ↑ (higher is better)",
        "digits-Recall-90 ↑ (higher is better)",
        "digits-FID-50 ↓ (lower is better)",
    ]


def test_a_row_of_metrics_holds_all_of_its_record(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = add_record(
        run, "fid", 96, 43.62519, standard_error=0.731, extrapolated=31.25, notes=("few & far",)
    )
    cells = [" ".join(td.split()) for td in section(run, "metrics").texts["td"]]
    assert cells[:5] == [
        "43.6252 ± 0.7310 95 %: 42.1924 to 45.0580", "31.2500", "digits-16-train",
        record.protocol_id, "few & far",
    ]  # fmt: skip


def test_undefined_values_and_missing_errors(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_record(run, "inception_score", 96, None, reference=None, notes=("probabilities are 0",))
    cells = [" ".join(td.split()) for td in section(run, "metrics").texts["td"]]
    assert cells[:2] == ["undefined", NOTHING]
    assert "±" not in cells[0]


def test_the_traps_of_a_reference_stand_below_its_numbers_once(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run")
    for path in (run.root / "results").glob("*.json"):
        content = json.loads(path.read_text())
        content["reference_warnings"] = ["a <trap>", "not comparable with FIDs of another"]
        record = Record.model_validate(content).sealed()
        path.write_text(record.model_dump_json())
    said = "reference digits-16-train: a <trap>; not comparable with FIDs of another"
    assert section(run, "metrics").text.count(said) == 2  # of 90 samples and of 50


def test_paste_lines_keep_references_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_record(run, "fid", 96, 1.5, reference="train")
    add_record(run, "fid", 96, 2.5, reference="heldout", reference_sha256="12" * 32)
    add_record(run, "inception_score", 96, 8.0, reference=None)
    lines = section(run, "metrics").texts["pre"]
    assert len(lines) == 2
    heldout, train = lines
    assert "digits-FID-96 2.5000, digits-IS-96 8.0000; reference heldout;" in heldout
    assert "digits-FID-96 1.5000, digits-IS-96 8.0000; reference train;" in train


def test_an_edited_record_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = add_record(run, "fid", 90, 43.5)
    assert "43.5000" in render_report(run)
    run.write_json(record.path, record.model_dump(mode="json") | {"value": 3.5})
    for reader in (
        render_report,
        records_of,
        lambda run: load_run(run.root).records,
        lambda run: open_entry("A", run.root),
    ):
        with pytest.raises(CorruptionError, match=r"results/fid-\w+\.json .*was edited"):
            reader(run)


def test_a_record_without_its_hash_says_so_beside_its_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = add_record(run, "fid", 90, 43.5, notes=("few samples",))
    assert UNSEALED not in render_report(run) + repr(load_run(run.root).metrics)
    content = record.model_dump(mode="json") | {"value": 3.5, "record_sha256": None}
    run.write_json(record.path, content)
    found = section(run, "metrics")
    assert UNSEALED in found.text
    (line,) = found.texts["pre"]
    assert line.endswith("digits-FID-90 WITHOUT HASH")
    opened = load_run(run.root)
    assert opened.metrics["fid"].notes == ("few samples", UNSEALED)
    for shown in (repr(opened.metrics), opened.records._repr_html_()):
        assert f"3.5000 ({UNSEALED})" in shown


def test_results_that_are_no_records_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.write_json("results/fid-1.json", {"value": 3})
    with pytest.raises(CorruptionError, match=r"results/fid-1\.json"):
        render_report(run)
