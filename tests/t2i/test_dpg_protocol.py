"""What of a text counts for the pin of DPG-Bench's prompts, and whose questions were asked."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from file_server import Site, serving
from harness import call_main
from PIL import Image

from evalsuite.artifacts.digests import git_blob_of
from evalsuite.artifacts.downloads import cached_path
from evalsuite.config import BenchmarkSpec, FilePlace, load_spec
from evalsuite.errors import CorruptionError, DataError, StorageError
from evalsuite.pipeline.benchmark_files import benchmark_file
from evalsuite.pipeline.dpg_protocol import departures_of, prompts_sha256, questions_notice
from evalsuite.pipeline.dpg_run import DpgInput, DpgScorer, summary_of
from evalsuite.pipeline.judged_images import GridImages
from evalsuite.pipeline.judging import header_of
from evalsuite.pipeline.row_file import TESTED_BY, is_written, read_both, write_rows
from evalsuite.runtime.judging import Judging, judge_into
from evalsuite.runtime.workforce import Workforce
from evalsuite.t2i.dpg_questions import read_dpg_rows
from evalsuite.t2i.judges import Judge


def test_blanks_quotes_and_accents_of_prompts_do_not_count() -> None:
    words = prompts_sha256([("1", 'Zoe\'s cafe, the "Rose"'), ("2", "two")])
    for text in (
        "Zoë’s  café, the “Rose”",
        "ZOE\N{COMBINING DIAERESIS}S cafe\n the 'Rose'",
        "zoes cafe the rose",
        "Zoe\N{ACUTE ACCENT}s cafe: the \N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}Rose",
    ):
        assert prompts_sha256([("2", "two"), ("1", text)]) == words
    for text in ("Zoe s cafe, the Rose", "Zoes cafe, the Nose", "Zoes cafe, the Rose 1"):
        assert prompts_sha256([("1", text), ("2", "two")]) != words


def test_questions_are_those_that_git_names() -> None:
    (published,) = (file.git_blob for file in load_spec(BenchmarkSpec, "dpg").files)
    rows = [{"item_id": "0", "prompt": "a cup", "number": number} for number in range(4)]

    def told(header: Mapping[str, Any]) -> list[str]:
        return [text for text in departures_of(header, rows) if "questions" in text]

    assert told({"csv_git_blob": published}) == []
    assert told({"csv_git_blob": "0" * 40}) == ["other questions than its dpg_bench.csv"]
    (old,) = told({"csv_sha256": "0" * 64})
    assert "not checked" in old


def test_a_file_has_the_name_that_git_gives_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello\n")
    assert git_blob_of(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"
    with pytest.raises(StorageError, match="cannot read"):
        git_blob_of(tmp_path / "b")


@dataclass(frozen=True)
class Named:
    """A judge by its name alone."""

    protocol: dict[str, str] = field(default_factory=lambda: {"name": "j"})

    def load(self, device: torch.device) -> Judge:
        raise AssertionError(device)


CSV = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
)


def scorer_of(csv: Path) -> DpgScorer:
    csv.write_text(CSV + "a,a cup,,1,0,entity,whole,entity - whole (cup),A cup?\n")
    return DpgInput(GridImages("g", "s", 4, ("a.png",), 8), ("a",)).scorer(
        read_dpg_rows(csv), csv, Named()
    )


def test_gits_name_of_the_questions_decides_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SHA-256 names the same bytes: what was asked before counts, and may be compared."""
    scorer = scorer_of(tmp_path / "q.csv")
    assert "csv_git_blob" not in scorer.decides
    images = GridImages("g", "s", 4, ("a.png",), 8)
    header = header_of(scorer, images)
    assert header["csv_git_blob"] == git_blob_of(tmp_path / "q.csv")
    question = {"id": 1, "parents": [], "category": "entity - whole", "text": "A cup?"}
    about = {"prompt": "a cup", "questions": [question]}
    rows = [{"item_id": "a", "number": n, "answers": {"1": "yes"}} for n in range(4)]
    rows[0] |= about
    old = {name: value for name, value in header.items() if name != "csv_git_blob"}
    write_rows(tmp_path / "old.jsonl", old, rows)
    write_rows(tmp_path / "new.jsonl", {**header, TESTED_BY: None}, rows)
    assert is_written(tmp_path / "old.jsonl", header)
    assert read_both(tmp_path / "old.jsonl", tmp_path / "new.jsonl") == (rows, rows)
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    judging = Judging(Workforce(None, None, "cpu", 1.0), print, print)
    judge_into(judging, images, scorer, tmp_path / "old.jsonl")  # asks nothing, and names them
    assert (tmp_path / "old.jsonl").read_bytes() == (tmp_path / "new.jsonl").read_bytes()
    before = (tmp_path / "old.jsonl").stat()
    judge_into(judging, images, scorer, tmp_path / "old.jsonl")  # says it: it may be read-only
    assert (tmp_path / "old.jsonl").stat().st_mtime_ns == before.st_mtime_ns
    write_rows(tmp_path / "old.jsonl", {**old, "csv_sha256": "0" * 64}, rows)
    with pytest.raises(DataError, match="other csv_sha256"):
        read_both(tmp_path / "old.jsonl", tmp_path / "new.jsonl")


def test_a_file_says_no_other_questions_than_its_csv(tmp_path: Path) -> None:
    """Nor another name of the csv; one that says no name is held against the csv at hand."""
    csv, path = tmp_path / "q.csv", tmp_path / "rows.jsonl"
    scorer = scorer_of(csv)
    header = header_of(scorer, GridImages("g", "s", 4, ("a.png",), 8))
    question = {"id": 1, "parents": [], "category": "entity - whole", "text": "A cup?"}
    first = {"prompt": "a cup", "questions": [question]}
    old = {name: value for name, value in header.items() if name != "csv_git_blob"}
    (published,) = (file.git_blob for file in load_spec(BenchmarkSpec, "dpg").files)
    for head, about, words in [
        (header, first, ""),
        (old, first, ""),
        (header, {**first, "prompt": "a mug"}, "line 2 is damaged: prompt of 'a' is not as"),
        (old, {**first, "questions": [{**question, "text": "A mug?"}]}, "2 is damaged: questions"),
        ({**header, "csv_git_blob": published}, first, "line 1 is damaged: csv_git_blob is '98457"),
        ({**header, "csv_git_blob": ""}, first, "line 1 is damaged: csv_git_blob is ''"),
    ]:
        rows = [{"item_id": "a", "number": n, "answers": {"1": "yes"}} for n in range(4)]
        write_rows(path, head, [rows[0] | about, *rows[1:]])
        if not words:
            assert "other questions than its dpg_bench.csv" in summary_of(path, csv)["departures"]
            continue
        for command in (("summary",), ("compare", path)):
            done = call_main("t2i", *command, path, "--dpg-csv", csv)
            assert (done.code, words in done.stderr) == (3, True), done.stderr


def test_other_questions_are_told_before_they_are_asked(tmp_path: Path) -> None:
    scorer_of(tmp_path / "q.csv")
    told = questions_notice(tmp_path / "q.csv")
    assert told.startswith(f"{tmp_path / 'q.csv'} has other questions than its dpg_bench.csv")
    (tmp_path / "grids").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "grids" / "a.png")
    options = ("--dpg-csv", tmp_path / "q.csv", "--resolution", 8, "--output", tmp_path / "o.jsonl")
    done = call_main("t2i", "dpg", tmp_path / "grids", *options, "--judge", tmp_path / "none")
    assert (done.code != 0, done.stderr.splitlines()[0]) == (True, f"evalsuite: {told}")


def questions_and_an_empty_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], bytes]:
    """The benchmark's YAML, and the bytes of `q.csv`, which is written."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(folder / "cache"))
    scorer_of(folder / "q.csv")
    base = yaml.safe_load(load_spec(BenchmarkSpec, "dpg").path.read_text())
    return base, (folder / "q.csv").read_bytes()


def test_fetched_questions_must_be_those_that_git_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they are removed, with what this machine pinned: the next fetch brings others."""
    base, content = questions_and_an_empty_cache(tmp_path, monkeypatch)
    place = {"url": "http://127.0.0.1:9/q.csv", "filename": "q.csv"}
    for blob, code in ((git_blob_of(tmp_path / "q.csv"), 0), ("0" * 40, 3)):
        file = {"role": "dpg-csv", "place": place, "git_blob": blob}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**base, "files": [file]}))
        spec = load_spec(BenchmarkSpec, str(tmp_path / "mine.yaml"))
        there = cached_path(FilePlace(**place))
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content)
        pin = there.with_name(f"{there.name}.sha256")
        pin.write_text(hashlib.sha256(content).hexdigest())
        if code:
            with pytest.raises(
                CorruptionError, match=r"not the published q.csv.*fetch .* removes it"
            ):
                benchmark_file(spec, "dpg-csv")
        done = call_main("t2i", "fetch", tmp_path / "mine.yaml")
        assert done.code == code, done.stderr
        assert there.exists() == pin.exists() == (code == 0)
    assert "it was removed; fetch it again" in done.stderr


def test_git_says_what_is_published_and_not_what_first_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong file is pinned and its user removes it, as the line says that tells of it."""
    base, content = questions_and_an_empty_cache(tmp_path, monkeypatch)
    with serving(Site({"q.csv": content})) as site:
        place = {"url": f"{site.url}q.csv", "filename": "q.csv"}
        file = {"role": "dpg-csv", "place": place, "git_blob": git_blob_of(tmp_path / "q.csv")}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**base, "files": [file]}))
        there = cached_path(FilePlace(**place))
        there.parent.mkdir(parents=True)
        there.with_name("q.csv.sha256").write_text("0" * 64)
        done = call_main("t2i", "fetch", tmp_path / "mine.yaml", "--allow-unverified")
    assert (done.code, there.read_bytes()) == (0, content), done.stderr


def test_a_file_beside_the_benchmark_must_be_the_one_that_git_names(tmp_path: Path) -> None:
    """It is its user's, who is told, and nothing removes it."""
    base = yaml.safe_load(load_spec(BenchmarkSpec, "dpg").path.read_text())
    scorer_of(tmp_path / "q.csv")
    for blob, code in ((git_blob_of(tmp_path / "q.csv"), 0), ("0" * 40, 3)):
        file = {"role": "dpg-csv", "file": "q.csv", "git_blob": blob}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**base, "files": [file]}))
        done = call_main("t2i", "fetch", tmp_path / "mine.yaml")
        assert done.code == code, done.stderr
    assert "q.csv is not the published q.csv" in done.stderr
    assert f"put that one there, or correct git_blob in {tmp_path / 'mine.yaml'}" in done.stderr
    assert (tmp_path / "q.csv").is_file()
