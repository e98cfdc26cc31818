"""What of a text counts for the pin of DPG-Bench's prompts, and whose questions were asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evalsuite.artifacts.digests import git_blob_of
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import StorageError
from evalsuite.pipeline.dpg_protocol import departures_of, prompts_sha256


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
