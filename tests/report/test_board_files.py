"""A board's files: the same rows in each, deterministic, and nothing that people wrote acts."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from board_kit import BAD_NAME, make_record, outside_record, plan_of, write_records

from evalsuite.artifacts.records import Record
from evalsuite.config import Claim, LabelRule, load_claims
from evalsuite.errors import DataError
from evalsuite.pipeline.comparison import compare
from evalsuite.pipeline.comparison_inputs import entries_for_board, letters, open_entry
from evalsuite.pipeline.leaderboard import Section, build_board
from evalsuite.report import board
from evalsuite.report.board_page import render_board
from evalsuite.report.figures import FIGURE_FORMATS, figure_against
from evalsuite.report.tables import (
    TableFormat,
    TextTable,
    comparison_as_tables,
    metrics_as_table,
    render,
)

OTHER = plan_of("pixnerd-xl-256", 10**9, guidance_scale=2.0)
TEX = "a_b & 5 % {x} $y$ #1 ^ ~ \\input{secret}"


def claim(**changes: Any) -> Claim:
    first = next(c for c in load_claims() if c.preset == "pixnerd-xl-256")
    return first.model_copy(update={"checkpoint": "released", **changes})


@pytest.fixture
def sections(tmp_path: Path) -> list[Section]:
    """Two results of which one has a hostile name, one dagger, another N, a hostile claim."""
    records: list[Record] = [
        make_record(1.94),
        make_record(2.5, plan=OTHER, model=BAD_NAME),
        outside_record(2.0),
        make_record(4.0, num_samples=10_000),
    ]
    claims = [claim(model=BAD_NAME, source=BAD_NAME, fid=1.93), claim(fid=1.94, guidance=BAD_NAME)]
    entries = [
        open_entry(name, write_records(tmp_path / f"{name}.json", record))
        for name, record in zip(letters(len(records)), records, strict=True)
    ]
    return build_board(entries, claims)


def test_csv_and_parquet_hold_the_same_rows(sections: list[Section]) -> None:
    rows = board.flat_rows(sections)
    fids = [row for row in rows if row["metric"] == "fid"]
    assert [row["kind"] for row in fids] == ["result"] * 3 + ["claim"] * 2 + ["result"]
    read = list(csv.DictReader(io.StringIO(board.to_csv(rows, list(board.SCHEMA)))))
    table = pq.read_table(io.BytesIO(board.to_parquet(rows))).to_pylist()
    assert len(read) == len(table) == len(rows)
    for text, typed, row in zip(read, table, rows, strict=True):
        assert typed == row
        assert text == {k: "" if v is None else str(v) for k, v in row.items()}


def test_the_table_has_one_line_for_each_row_and_changes_with_it_alone(
    sections: list[Section],
) -> None:
    """So a diff of two commits shows what came and went."""
    text = board.to_csv(board.flat_rows(sections), list(board.SCHEMA))
    assert "\r" not in text
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1 + len(board.flat_rows(sections))
    assert text == board.to_csv(board.flat_rows(sections), list(board.SCHEMA))


def test_claims_and_reproductions_stand_side_by_side(sections: list[Section]) -> None:
    rows = board.reproduction_rows(board.reproductions(sections))
    fids = {(r["value"], r["claimed"]): r for r in rows if r["metric"] == "fid"}
    near = fids[1.94, 1.93]
    assert near["verdict"] == "inside"
    assert near["in_errors"] == pytest.approx(0.01 / (2**0.5 * 0.01))
    assert "N is 10,000" in fids[4.0, 1.93]["no_verdict_because"]
    assert fids[4.0, 1.93]["verdict"] == "no verdict"
    assert all(tuple(row) == board.REPRODUCTION_COLUMNS for row in rows)


def test_the_page_escapes_what_people_wrote(sections: list[Section]) -> None:
    html = render_board(sections)
    assert BAD_NAME not in html
    assert "&lt;script&gt;document.title = &#39;broken&#39;&lt;/script&gt;" in html
    data = re.search(r'<script type="application/json" id="points">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert "<" not in data[1]
    points = json.loads(data[1])
    assert [p["model"] for p in points].count(BAD_NAME) >= 2
    assert len(points) == len(board.flat_rows(sections)) == html.count("data-point=")


def test_the_page_is_the_same_each_time_and_admits_its_own_scripts_alone(
    sections: list[Section],
) -> None:
    html = render_board(sections)
    assert html == render_board(sections)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert len(re.findall("'sha256-", policy[1])) == 2
    assert "unsafe-inline'; script" in policy[1]
    assert "unsafe-eval" not in policy[1]


def test_places_ties_and_daggers_are_in_the_page(sections: list[Section]) -> None:
    html = render_board(sections)
    assert "theirs.npz †" in html
    assert "† no place, because unknown: label_rule, uint8_rule, codec" in html
    assert "≈ 1 other" in html
    assert "FID-10K, adm against adm-imagenet-256" in html


def test_why_a_record_without_its_hash_has_no_place_is_told(tmp_path: Path) -> None:
    record = make_record(1.94).model_copy(update={"record_sha256": None})
    sections = build_board(entries_for_board(write_records(tmp_path / "a.json", record)), [])
    (row,) = board.flat_rows(sections)
    assert (row["best_place"], row["unknown"]) == (None, "record_sha256")
    said = "† no place, because unknown: record_sha256; without it an edit is not seen"
    assert said in render_board(sections)
    (table,) = board.board_tables(sections)
    assert "no place, because unknown: record_sha256" in table.notes[1]
    assert ", no place -->" in figure_against([row], "title", "compute", "svg").decode()


def test_what_is_declared_or_mixed_is_told_in_every_format(tmp_path: Path) -> None:
    """A place that rests on a word must not look like one that rests on a measurement."""
    stated = {"label_rule": "balanced", "uint8_rule": "half_up", "codec": "lossless"}
    theirs = [outside_record(1.0), outside_record(1.5, resize="pillow-bicubic")]
    declared = [stated, stated | {"label_rule": BAD_NAME}]
    theirs = [r.model_copy(update={"declared": d}) for r, d in zip(theirs, declared, strict=True)]
    samples = make_record(2.0).samples | {"numerics_ids": ["aa" * 32, "bb" * 32]}
    records = [*(record.sealed() for record in theirs), make_record(2.0, samples=samples)]
    sections = build_board(entries_for_board(write_records(tmp_path / "a.json", *records)), [])
    by_value = {row["value"]: row for row in board.flat_rows(sections)}
    said = "label_rule balanced; uint8_rule half_up; codec lossless"
    assert (by_value[1.0]["best_place"], by_value[1.0]["declared"]) == (1, said)
    assert (by_value[2.0]["best_place"], by_value[2.0]["declared"]) == (2, "")
    assert {value: row["mixed_numerics"] for value, row in by_value.items()} == {
        1.0: None,
        1.5: None,
        2.0: True,
    }
    html = render_board(sections)
    assert BAD_NAME not in html
    words = f"declared, not verified: {said.replace(';', ',')}"
    assert f"<small>‡ {words}</small>" in html
    assert "<small>§ samples of mixed numerics" in html
    tables = board.board_tables(sections)
    markdown, latex = (render(tables, to) for to in (TableFormat.MARKDOWN, TableFormat.LATEX))
    assert "| theirs.npz ‡ |" in markdown
    assert f"‡ theirs.npz: {words}".replace("_", "\\_") in markdown
    assert "theirs.npz $\\ddagger$ &" in latex
    assert "pixnerd-xl-256 \\S{} &" in latex
    rows = [row | {"gpu_hours": 1.0} for row in by_value.values()]
    figure = figure_against(rows, "title", "gpu_hours", "svg").decode()
    assert len(re.findall(r", declared -->", figure)) == 2
    assert len(re.findall(r", mixed numerics -->", figure)) == 1
    assert ", no place" not in figure


def test_only_tables_of_fid_say_what_is_within_its_percents() -> None:
    """Of others nobody measured what another training gives: a dash would say that none is near."""
    html = render_board(build_board([], [claim(), claim(fid=2.3)]))
    tables = {part.partition("<")[0]: part for part in html.split("<h3>")[1:]}
    assert len(tables) == 5
    for title, table in tables.items():
        is_fid = title.startswith("FID")
        assert ("Within 1.3 %" in table) == ("≈ 1 other" in table) == is_fid
        assert table.count('role="columnheader"') == (7 if is_fid else 6)
        assert table.count('role="cell"') == 2 * (6 if is_fid else 5)


def test_replicates_are_told_in_every_format(tmp_path: Path) -> None:
    """Each row its plan and its seeds, and what they come to together."""
    plans = [plan_of("pixnerd-xl-256", seed) for seed in (0, 10**7)]
    records = [make_record(2.0 + 0.2 * i, plan=plan) for i, plan in enumerate(plans)]
    sections = build_board(entries_for_board(write_records(tmp_path / "a.json", *records)), [])
    rows = board.flat_rows(sections)
    assert [(row["replicates"], row["first_seed"]) for row in rows] == [(2, 0), (2, 10**7)]
    assert [row["mean"] for row in rows] == [pytest.approx(2.1)] * 2
    a, b = (plan.plan_id[:12] for plan in plans)
    said = f"{a} and {b} are one configuration on other seeds: their mean is 2.1000 ± 0.0071"
    assert said in render_board(sections)
    table = render(board.board_tables(sections), TableFormat.MARKDOWN)
    assert re.search(rf"\| pixnerd-xl-256 \| {b} \| [^|]+ \| 10000000 \|", table)
    assert said in table


@pytest.mark.parametrize("to", FIGURE_FORMATS)
def test_figures_are_files_of_their_kind_and_the_same_each_time(
    sections: list[Section], to: str
) -> None:
    title = next(s.groups[0].title for s in sections if s.groups and s.claims)
    shown = [one.row for one in board.plotted(sections) if title in one.figures]
    assert [row["kind"] for row in shown] == ["result"] * 3 + ["claim"] * 2
    rows = [row | {"model": "a $ b"} for row in shown]
    content = figure_against(rows, title, "compute", to)
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[to]
    assert content.startswith(magic)
    assert content == figure_against(rows, title, "compute", to)


def test_a_result_without_an_error_is_not_drawn_as_a_sure_one(sections: list[Section]) -> None:
    """It has a shape and a key of its own, and every point its model and guidance."""
    title = next(s.groups[0].title for s in sections if s.groups and s.claims)
    shown = [one.row for one in board.plotted(sections) if title in one.figures]
    results = [row for row in shown if row["kind"] == "result" and row["compute"] is not None]
    bare = [row | {"standard_error": None, "guidance": "3 on 0..1"} for row in results]
    known = figure_against(results, title, "compute", "svg").decode()
    unknown = figure_against(bare, title, "compute", "svg").decode()
    keys = ("<!-- results, 95 % interval -->", "<!-- results without an interval -->")
    assert [key in known for key in keys] == [True, False]
    assert [key in unknown for key in keys] == [False, True]
    assert unknown.count(", guidance 3 on 0..1 -->") == len(results)


def several_groups(tmp_path: Path) -> list[Section]:
    """One named protocol in three groups, and two sections that would have one title."""
    random = plan_of("pixnerd-xl-256", 2 * 10**9, labels=LabelRule(rule="random", seed=1))
    records = [
        make_record(1.94),
        make_record(1.7, plan=OTHER, reference_sha256="34" * 32),
        make_record(1.8, plan=random),
        make_record(4.0, num_samples=10_000),
        make_record(3.0, plan=OTHER, num_samples=10_000, reference_sha256="34" * 32),
    ]
    claims = [claim(), claim(protocol="adm-tf (50k; VIRTUAL ref); random labels", fid=1.5)]
    path = write_records(tmp_path / "records.json", *records)
    return build_board(entries_for_board(path), claims)


def test_rows_and_figures_are_of_one_group(tmp_path: Path) -> None:
    """Other reference digests and labels have other titles, ids and figures, in each file."""
    sections = several_groups(tmp_path)
    fids = [section for section in sections if section.metric == "fid"]
    groups = [group for section in fids for group in section.groups]
    assert [len(section.groups) for section in fids] == [3, 1, 1]
    assert len({section.title for section in fids}) == 3
    assert len({group.title for group in groups}) == len({group.id for group in groups}) == 5
    rows = [row for row in board.flat_rows(fids) if row["kind"] == "result"]
    assert len({(row["section"], row["group"]) for row in rows}) == 5
    captions = [table.caption for table in board.board_tables(fids)]
    assert len(set(captions)) == len(captions)
    by_title = {
        group.title: [one.row["value"] for one in board.plotted(fids) if group.title in one.figures]
        for group in groups
    }
    assert sorted(by_title.values()) == [[1.7, 2.29], [1.8, 2.29, 1.5], [1.94, 2.29], [3.0], [4.0]]


def test_a_figure_of_nothing_is_refused(sections: list[Section]) -> None:
    rows = [row | {"compute": None} for row in board.flat_rows(sections)]
    with pytest.raises(DataError, match="nothing to plot"):
        figure_against(rows, "a title", "compute", "png")


def test_tables_for_papers_never_mix_results_and_claims(sections: list[Section]) -> None:
    tables = board.board_tables(sections)
    for table in tables:
        assert ("claims" in table.caption) == ("source" in table.headings)
        assert {len(row) for row in table.rows} == {len(table.headings)}
    notes = [note for table in tables for note in table.notes]
    assert any("† theirs.npz: no place" in note for note in notes)


def test_latex_is_text_whatever_stands_in_it() -> None:
    text = render([TextTable(TEX, ("m", "v"), [(TEX, "1.0 ± 0.1")])], TableFormat.LATEX)
    escaped = (
        "a\\_b \\& 5 \\% \\{x\\} \\$y\\$ \\#1 \\textasciicircum{} \\textasciitilde{}"
        " \\textbackslash{}input\\{secret\\}"
    )
    assert f"{escaped} & 1.0 $\\pm$ 0.1 \\\\" in text
    assert "\\begin{tabular}{lr}" in text
    assert f"\\caption{{{escaped}}}" in text


def test_markdown_is_text_whatever_stands_in_it() -> None:
    cell = f"{BAD_NAME} | [x](y) `z`\n# new"
    text = render([TextTable("t", ("m", "v"), [(cell, "1")])], TableFormat.MARKDOWN)
    row = text.splitlines()[4]
    assert "<" not in row
    assert row.endswith("\\| \\[x\\](y) \\`z\\` \\# new | 1 |")


def test_csv_tables_keep_their_notes() -> None:
    tables = [TextTable("t", ("m", "v"), [('a "b"', "1")], notes=("n1", "n2"))]
    read = list(csv.DictReader(io.StringIO(render(tables, TableFormat.CSV))))
    assert read == [{"m": 'a "b"', "v": "1", "notes": "n1 | n2"}]
    both = render([*tables, TextTable("u", ("m", "v"), [("c", "2")])], TableFormat.CSV)
    assert [row["table"] for row in csv.DictReader(io.StringIO(both))] == ["t", "u"]


def test_the_metrics_of_an_evaluation_as_a_table() -> None:
    records = [make_record(1.94), make_record(None, None, metric="precision", notes=("why",))]
    table = metrics_as_table(records)
    assert table.headings[:2] == ["metric", "protocol"]
    assert [row[4] for row in table.rows] == ["1.9400", "undefined"]
    assert table.notes == ["Precision-50K: why"]


def test_a_refused_comparison_is_refused_in_every_format(tmp_path: Path) -> None:
    """With --allow it is printed with its caveat, in each of them."""
    records = [make_record(1.94), make_record(1.7, plan=OTHER, reference_sha256="34" * 32)]
    a, b = (
        open_entry(name, write_records(tmp_path / f"{name}.json", record))
        for name, record in zip("AB", records, strict=True)
    )
    for to in TableFormat:
        refused = render(comparison_as_tables(compare([a, b], a)), to)
        assert "refused" in refused
        allowed = render(comparison_as_tables(compare([a, b], a, {"reference_sha256"})), to)
        assert "-0.2400" in allowed
        assert "allowed, not ranked" in allowed
        assert "0.08 FID apart" in allowed
