"""Prompt files give exactly their prompts, or name the line that is wrong."""

from pathlib import Path

import pytest

from evalsuite.conditioning.prompts import prompts_sha256, read_prompts
from evalsuite.conditioning.random_features import random_features
from evalsuite.errors import StorageError, UsageError

PROMPTS = ("a photo of a cat", ' "quoted", with blanks ', "ñ 猫\u2028one line")
GOOD = {
    "plain.txt": 'a photo of a cat\n "quoted", with blanks \nñ 猫\u2028one line\n',
    "no-end.txt": 'a photo of a cat\n "quoted", with blanks \nñ 猫\u2028one line',
    "windows.txt": '\ufeffa photo of a cat\r\n "quoted", with blanks \r\nñ 猫\u2028one line\r\n',
    "lines.jsonl": '{"prompt": "a photo of a cat", "tag": "x"}\n'
    '{"prompt": " \\"quoted\\", with blanks "}\n{"prompt": "ñ 猫\u2028one line"}\n',
    "table.CSV": 'id,prompt\n0,a photo of a cat\n1," ""quoted"", with blanks "\n'
    "2,ñ 猫\u2028one line\n",
}
BAD = {
    "empty.txt": ("", "holds no prompt"),
    "empty.jsonl": ("", "holds no prompt"),
    "empty.csv": ("", "holds no prompt"),
    "header.csv": ("prompt\n", "holds no prompt"),
    "blank.txt": ("a\n \nb\n", "line 2: the prompt is empty"),
    "end.txt": ("a\n\n", "line 2: the prompt is empty"),
    "half.jsonl": ('{"prompt": "a"}\n{"prompt": "b"\n', "line 2 is not JSON"),
    "deep.jsonl": ("[" * 9000 + "\n", "line 1 is not JSON: brackets are more than 64 deep"),
    "digits.jsonl": ('{"prompt": ' + "9" * 5000 + "}\n", "a number has more than 300 digits"),
    "key.jsonl": ('{"text": "a"}\n', "line 1: no text under 'prompt'"),
    "list.jsonl": ('["a"]\n', "line 1: no text under 'prompt'"),
    "number.jsonl": ('{"prompt": 3}\n', "line 1: no text under 'prompt'"),
    "half-character.jsonl": ('{"prompt": "a\\ud800"}\n', "line 1: character 1"),
    "control.txt": (
        "a\nb\x1b[31m\n",
        r"line 2: character 1 of the prompt is the control character",
    ),
    "c1.txt": ("a\nb\x9b31m\n", r"line 2: .* the control character '\\x9b'"),
    "override.txt": ("a\u202eb\n", r"line 1: .* the control character '\\u202e'"),
    "isolate.jsonl": ('{"prompt": "a\\u2066b"}\n', r"line 1: .* control character '\\u2066'"),
    "mac.txt": ("a cat\ra dog\r", "line 1 has a carriage return within it"),
    "twice.csv": ("prompt,prompt\na,b\n", "line 1: two columns are named 'prompt'"),
    "column.csv": ("caption\na\n", "line 1: no column is named 'prompt'"),
    "short.csv": ("id,prompt\n0,a\n1\n", "line 3: no text under 'prompt'"),
    "long.csv": ("id,prompt\n0,a,b\n", "line 2: more fields than columns"),
    "open.csv": ('prompt\n"a\n', "line 2 is not CSV"),
    "prompts.yaml": ("- a\n", "give a .txt, .jsonl, .csv file"),
}


@pytest.mark.parametrize("name", GOOD)
def test_prompts_come_back_character_for_character(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD[name].encode())
    assert read_prompts(tmp_path / name) == PROMPTS


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_its_line(tmp_path: Path, name: str) -> None:
    content, line = BAD[name]
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(UsageError, match=line) as raised:
        read_prompts(tmp_path / name)
    assert name in str(raised.value)


def test_a_csv_prompt_may_hold_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b'prompt\n"two\nlines"\n')
    assert read_prompts(path) == ("two\nlines",)


def test_the_csv_of_dpg_bench_gives_each_item_once(tmp_path: Path) -> None:
    path = tmp_path / "dpg_bench.csv"
    path.write_text("item_id,text,proposition_id\nb,two cats ,1\nb,two cats ,2\na,a dog,1\n")
    assert read_prompts(path) == ("two cats", "a dog")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("señor".encode("latin-1"))
    with pytest.raises(UsageError, match=r"not UTF-8 \(byte 2\)"):
        read_prompts(tmp_path / "latin.txt")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        read_prompts(tmp_path / "none.txt")


def test_the_digest_is_of_texts_and_order() -> None:
    """Not of the way in which they are joined."""
    variants = [("a", "b"), ("b", "a"), ("ab",), ("a", "b", "a"), ("a\nb",)]
    assert len({prompts_sha256(prompts) for prompts in variants}) == len(variants)
    assert prompts_sha256(["a", "b"]) == prompts_sha256(("a", "b"))


def test_random_features_are_decided_by_seed_and_prompt() -> None:
    """Standard normal; equal when made again in another order; different for each pair."""
    pairs = [(prompt, seed) for prompt in ("a cat", "a dog", "") for seed in (0, 1)]
    first = {pair: random_features(*pair, 128, 256) for pair in pairs}
    again = {pair: random_features(*pair, 128, 256) for pair in pairs[::-1]}
    for pair, features in first.items():
        assert features.equal(again[pair])
        assert abs(float(features.mean())) < 0.03
        assert abs(float(features.std()) - 1) < 0.03
    distinct = {features.numpy().tobytes() for features in first.values()}
    assert len(distinct) == len(pairs)
