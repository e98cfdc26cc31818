"""`evalsuite t2i dpg`: a run and its grids are asked the same, by a judge that answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import call_main
from judging_kit import Kit, PixelJudge, here

from evalsuite.artifacts.digests import git_blob_of
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import DataError
from evalsuite.pipeline.dpg_protocol import prompts_sha256
from evalsuite.pipeline.dpg_run import open_dpg
from evalsuite.pipeline.dpg_run import summary_of as dpg_summary
from evalsuite.pipeline.row_file import read_rows
from evalsuite.report.verdicts import verdict_sets
from evalsuite.runtime.judging import judge_into
from evalsuite.t2i.dpg_questions import read_dpg_rows


@dataclass(frozen=True)
class Babbling(PixelJudge):
    """A judge of other questions."""

    @property
    def protocol(self) -> dict[str, Any]:
        return {"name": "babbling"}

    def answer(self, image: Any, questions: Any) -> list[str]:
        return ["two cups" for _ in questions]


def test_a_judge_that_says_neither_yes_nor_no_gives_no_score(kit: Kit, tmp_path: Path) -> None:
    rows, path = read_dpg_rows(kit.csv), tmp_path / "a.jsonl"
    given = open_dpg(kit.run.root, kit.csv, rows, None, None)
    with pytest.raises(DataError, match="64 of 64 answers are neither yes nor no, such as 'two"):
        judge_into(here(), given.images, given.scorer(rows, kit.csv, Babbling()), path)
    assert not path.exists()


def test_dpg_asks_a_run_and_its_grids_the_same(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = tmp_path / "grids"
    metadata = ("--metadata", kit.csv)
    done = call_main("export", kit.run.root, "--format", "dpg", *metadata, "--output", grids)
    assert done.code == 0, done.stderr
    rows, found = read_dpg_rows(kit.csv), []
    for place, (images, side) in enumerate(((kit.run.root, None), (grids, 16))):
        given = open_dpg(images, kit.csv, rows, None, side)
        path = tmp_path / f"{place}.jsonl"
        judge_into(here(), given.images, given.scorer(rows, kit.csv, PixelJudge()), path)
        found.append(dpg_summary(path, kit.csv))
    sources = [one.pop("source") for one in found]
    assert len(set(sources)) == 2
    assert found[0] == found[1]
    csv = ("--dpg-csv", kit.csv)
    compared = call_main("t2i", "compare", tmp_path / "0.jsonl", tmp_path / "1.jsonl", *csv)
    assert compared.stdout.split()[:2] == ["difference", "+0.0000"], compared.stderr
    other = tmp_path / "other.csv"
    other.write_text(
        kit.csv.read_text().replace("i3,a photo of 3 cups,2,1", "i3,a photo of 3 cups,2,0")
    )
    for command in (("summary",), ("compare", tmp_path / "1.jsonl")):
        refused = call_main("t2i", *command, tmp_path / "0.jsonl", "--dpg-csv", other)
        assert (refused.code, "holds answers to the questions of" in refused.stderr) == (2, True)
    assert found[0]["corrected"]["num_answers"] == 64
    assert 0 < found[0]["corrected"]["overall"] < 100
    assert found[0]["official"]["dropped"].keys() == {"i0"}  # its first row is skipped
    assert found[0]["official"]["overall"] == 0  # "Yes." is not exactly yes
    departures = ["other prompts than its 1065", "other questions than its dpg_bench.csv"]
    assert found[0]["departures"] == departures
    assert found[0]["display"] == f"DPG (pixels; {'; '.join(departures)})"
    (shown,) = [one for one in verdict_sets(kit.run, "verdicts") if "pixels" in one.title]
    assert shown.title == f"DPG, corrected (pixels; {'; '.join(departures)})"
    assert [bar.name for bar in shown.bars] == ["entity", "attribute", "overall"]
    assert shown.bars[-1].value == found[0]["corrected"]["overall"]
    intervals = found[0]["corrected"]["category_intervals"]
    assert [bar.interval for bar in shown.bars[:2]] == [
        tuple(intervals[name]) for name in ("entity", "attribute")
    ]
    assert intervals["entity"][0] < shown.bars[0].value < intervals["entity"][1]
    assert (shown.published, departures[0] in shown.notes[1]) == ((), True)
    ours = prompts_sha256((row.item_id, row.prompt.upper() + " ") for row in rows[::2])
    spec = load_spec(BenchmarkSpec, "dpg")
    file = spec.files[0].model_copy(update={"git_blob": git_blob_of(kit.csv)})
    whole = spec.model_copy(update={"prompts_sha256": ours, "files": (file,)})
    with monkeypatch.context() as patch:
        patch.setattr("evalsuite.pipeline.dpg_protocol.load_spec", lambda kind, name: whole)
        (shown,) = [one for one in verdict_sets(kit.run, "verdicts") if "pixels" in one.title]
    assert shown.title == "DPG, corrected (pixels)"
    models = [tick.model for tick in shown.bars[-1].ticks]
    assert models == [row.model for row in shown.published]
    assert "PixNerd-XXL/16" in models
    lowest, highest = ([card.lines for card in group.cards] for group in shown.groups)
    assert (lowest[0][0], highest[0][0]) == ("0 of 100", "100 of 100")
    assert len(lowest[0]) == 3  # the score and two questions
    with pytest.raises(DataError, match=r"i0\.png of 32x32 has no 2 x 2 cells of 8x8"):
        open_dpg(grids, kit.csv, rows, None, 8)
    (grids / "i3.png").rename(grids / "i3.JPG")
    with pytest.raises(DataError, match=r"holds 1 JPEGs such as i3\.JPG: PNG is wanted"):
        open_dpg(grids, kit.csv, rows, None, 16)
    (grids / "i3.JPG").rename(grids / "i3.png")
    (grids / "i3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"i3\.png cannot be read as an image"):
        open_dpg(grids, kit.csv, rows, None, 16)
    (grids / "i3.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 files such as i3\.png"):
        open_dpg(grids, kit.csv, rows, None, 16)


def test_a_run_is_asked_by_the_command(kit: Kit, tmp_path: Path) -> None:
    answers, options = tmp_path / "a.jsonl", ("--dpg-csv", kit.csv, "--num-samples", 8)
    judge = ("--judge", kit.blip, "--device", "cpu", "--output", answers)
    done = call_main("t2i", "dpg", kit.run.root, *options, *judge)
    assert done.code == 0, done.stderr
    departures = (
        "other prompts than its 1065; other questions than its dpg_bench.csv;"
        " images of each prompt 1, not 4"
    )
    assert f"DPG (blip-vqa; {departures}): of official, published category scores" in done.stdout
    header, rows = read_rows(answers)
    assert (len(rows), len(header["judge"]["weights_sha256"])) == (8, 64)
    assert {word for row in rows for word in row["answers"].values()} == {"yes", "no"}
    assert call_main("t2i", "summary", answers, "--dpg-csv", kit.csv).stdout == done.stdout
