"""DPG-Bench beyond its goldens: the corrected aggregation, and files that are wrong."""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from harness import call_main

from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.dpg_run import DpgInput
from evalsuite.pipeline.judged_images import Shown
from evalsuite.pipeline.row_file import write_rows
from evalsuite.report.dpg_answers import fault_of
from evalsuite.t2i.dpg import (
    first_word,
    is_exactly_yes,
    is_neither,
    is_yes,
    judge,
    judge_as_published,
    summarise,
    summarise_as_published,
)
from evalsuite.t2i.dpg_questions import (
    items_as_published,
    items_as_they_are,
    items_of,
    read_dpg_rows,
)
from evalsuite.t2i.grids import cut_cells, join_cells
from evalsuite.t2i.items import read_items

HEAD = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
)


def write(folder: Path, *rows: tuple[str, int, str, str]) -> Path:
    """A csv of (item, question, parents, category) rows."""
    path = folder / "dpg_bench.csv"
    lines = [f'{i},A {i}.,,{q},"{p}",,,"{c} (thing, x)",Is it {q}?\n' for i, q, p, c in rows]
    path.write_text(HEAD + "".join(lines))
    return path


def yes(*numbers: int, of: int) -> dict[int, str]:
    return {n: "Yes." if n in numbers else "no" for n in range(1, of + 1)}


def test_zeroing_reaches_every_descendant_whatever_the_order(tmp_path: Path) -> None:
    """3 asks 2 asks 1, but the rows stand upside down: the published rule misses it."""
    rows = read_dpg_rows(
        write(tmp_path, ("a", 3, "2", "entity - whole"), ("a", 2, "1", "x"), ("a", 1, "0", "x"))
    )
    item = items_of(rows)["a"]
    assert judge(item, yes(2, 3, of=3)).zeroed == {1: False, 2: False, 3: False}
    exact = {n: answer.strip(".").lower() for n, answer in yes(2, 3, of=3).items()}
    assert judge_as_published(item, exact).zeroed == {3: True, 2: False, 1: False}


def test_the_corrected_score_uses_every_row_and_every_image(tmp_path: Path) -> None:
    """By hand: two items, two images each."""
    path = write(
        tmp_path,
        ("a", 1, "0", "entity - whole"),
        ("b", 1, "0", "global -"),
        ("a", 2, "1", "attribute - color"),
    )
    rows = read_dpg_rows(path)
    answers = {"a": [yes(1, 2, of=2), yes(2, of=2)], "b": [yes(1, of=1), yes(of=1)]}
    summary, results = summarise(items_of(rows), answers)
    assert results["a"].score == 0.5  # 2/2 and, because 1 is no, 0/2
    assert summary.overall == 50
    assert summary.broad == {"attribute": 50, "entity": 50, "global": 50}
    assert (summary.num_prompts, summary.num_answers) == (2, 6)
    published, _ = summarise_as_published(
        items_as_published(rows), {"a": [{2: "yes"}], "b": [{1: "Yes"}]}
    )
    assert "a" in published.dropped  # its first row is skipped, so its second lacks its parent
    assert published.overall == 0  # "Yes" is not exactly yes


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([("a", 1, "7", "x")], "question 1 of a depends on question 7, which is not there"),
        ([("a", 1, "2", "x"), ("a", 2, "1", "x")], r"questions \[1, 2\] of a .* circle"),
        ([("a", 1, "1", "x")], "circle"),
        ([("a", 1, "0", "x"), ("a", 1, "0", "x")], "question 1 of a is there twice"),
    ],
)
def test_a_broken_graph_is_refused(tmp_path: Path, rows: list, line: str) -> None:
    with pytest.raises(DataError, match=line):
        items_of(read_dpg_rows(write(tmp_path, *rows)))


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (("b", 2, "7", "x"), "question 2 of b depends on question 7, which is not there"),
        (("b", 1, "0", "x"), "question 1 of b is there twice"),
    ],
)
def test_official_is_given_where_corrected_is_refused(
    tmp_path: Path, second: tuple[str, int, str, str], reason: str
) -> None:
    """The published program scores such a file too; of a question there twice the last is asked."""
    csv = write(tmp_path, ("a", 1, "0", "x"), ("a", 2, "0", "x"), ("b", 1, "0", "x"), second)
    rows = read_dpg_rows(csv)
    items = items_as_they_are(rows)
    assert items["b"].texts == {q: f"Is it {q}?" for q in {1, second[1]}}
    scorer = DpgInput(Path(), ("a", "b")).scorer(rows, csv, Judges())
    judge_of_all, image = scorer.load(CPU), np.zeros((8, 8, 3), np.uint8)
    found = judge_of_all.rows([Shown(0, 0), Shown(1, 0)], [image, image])
    header = {"source": "x", "num_images": 2, **scorer.decides, **scorer.says}
    write_rows(tmp_path / "answers.jsonl", header, found)
    done = call_main("t2i", "summary", tmp_path / "answers.jsonl", "--dpg-csv", csv)
    assert done.code == 0, done.stderr
    official, _, corrected, _ = done.stdout.splitlines()
    assert official.startswith("official   100.00")
    assert corrected.startswith(f"corrected  refused: {reason}")
    assert reason in fault_of(found)
    assert fault_of(found[:1]) == ""


def test_corrected_is_given_where_official_is_impossible(tmp_path: Path) -> None:
    """It skips the only row that there is; where it is possible, it has an interval by prompt."""
    for names in ("a", "abc"):
        csv = write(tmp_path, *[(name, 1, "0", "x") for name in names])
        rows = read_dpg_rows(csv)
        scorer = DpgInput(Path(), tuple(names)).scorer(rows, csv, Judges())
        shown = [Shown(place, 0) for place in range(len(names))]
        found = scorer.load(CPU).rows(shown, [np.zeros((8, 8, 3), np.uint8)] * len(names))
        header = {"source": "x", "num_images": len(names), **scorer.decides, **scorer.says}
        write_rows(tmp_path / "answers.jsonl", header, found)
        done = call_main("t2i", "summary", tmp_path / "answers.jsonl", "--dpg-csv", csv)
        assert done.code == 0, done.stderr
        official, *_ = done.stdout.splitlines()
        (corrected,) = [line for line in done.stdout.splitlines() if line.startswith("corrected")]
        assert corrected.startswith("corrected  100.00")
        if names == "a":
            assert official == "official   refused: no prompt of DPG-Bench could be scored"
        else:  # a is dropped with its row
            assert re.fullmatch(
                r"official   100.00  \(\d+\.\d+ to 100\.0000\)  2 prompts", official
            )


class Judges:
    """A source of a judge that says yes; and the judge."""

    protocol: ClassVar = {"name": "yes"}

    def load(self, device: torch.device) -> "Judges":
        return self

    def answer(self, image: np.ndarray, questions: list[str]) -> list[str]:
        return ["yes"] * len(questions)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "no column 'dependency'"),
        (HEAD, "holds no question"),
        ("text," + HEAD, "line 1: two columns are named 'text'"),
        (HEAD + "a,t,,1,one,,,entity - whole (x),q\n", "line 2: dependency 'one'"),
        (
            HEAD + "a,t,," + "9" * 5000 + ",0,,,x (x),q\n",
            "line 2: proposition_id '9+' is no whole number",
        ),
        (HEAD + "a,t,,1,,,,entity - whole (x),q\n", "line 2: dependency ''"),
        (HEAD + "a,t,,1,0,,,(x),q\n", "line 2 has no category"),
        (HEAD + ",t,,1,0,,,entity - whole (x),q\n", "line 2 has no item_id"),
        (HEAD + 'a,"t\n', "is not CSV"),
        (HEAD + "a,t,,1,0,,,x - y (x),a cube, red?\n", "line 2 has more fields than columns"),
        (HEAD + "a,t,,1,0,,,entity - whole (x)\n", "line 2 has fewer fields than columns"),
        (HEAD + "a,t,,1,0,,,entity - whole (x),\n", "line 2 has no question_natural_language"),
    ],
)
def test_a_bad_csv_is_refused_by_its_line(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "dpg_bench.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=line):
        read_dpg_rows(path)


def test_missing_prompts_images_and_answers_are_errors(tmp_path: Path) -> None:
    rows = [("a", 1, "0", "x"), ("b", 1, "0", "x")]
    items = items_of(read_dpg_rows(write(tmp_path, *rows)))
    one = yes(1, of=1)
    for answers, line in [
        ({"a": [one]}, "1 prompts have no images, such as b"),
        ({"a": [one], "b": [one], "c": [one]}, "1 prompts are no items of the csv, such as c"),
        ({"a": [one, one], "b": [one]}, r"prompts have \[1, 2\] images each"),
        ({"a": [one], "b": [{}]}, "question 1 of b has no answer"),
    ]:
        with pytest.raises(DataError, match=line):
            summarise(items, answers)


def test_answers_in_words() -> None:
    said = ("yes", "Yes", " YES.", "Yes, it is", "yes. It is.", "**Yes**", '"yes"', "'yes'")
    said += (
        "Yes: it is",
        "Yes; it is",
        "(yes)",
        "[Yes]",
        "Yes\u2014it is",
        "\u201cYes\u201d",
        "yes/true",
    )
    said += ("Yes!It is", "__yes__", "\u2018yes\u2019", "- yes", "yes-", "\u3010yes\u3011")
    for answer in said:
        assert is_yes(answer)
        assert not is_neither(answer)
        assert is_exactly_yes(answer) == (answer == "yes")
    for answer in (
        "no",
        "No: yes",
        "yesterday",
        "yes-man",
        "yes'm",
        "",
        "I think yes",
        "\u00bfs\u00ed?",
    ):
        assert not is_yes(answer)
    assert first_word("...") == ""
    assert is_neither("I think yes")


def test_grids_go_together_and_apart() -> None:
    images = [np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8) for i in range(4)]
    grid = join_cells(images)
    assert grid.shape == (16, 16, 3)
    for cell, image in zip(cut_cells(grid, 8), images, strict=True):
        np.testing.assert_array_equal(cell, image)
    with pytest.raises(DataError, match="has no 2 x 2 cells of 16x16"):
        cut_cells(grid, 16)
    with pytest.raises(UsageError, match="needs 4 images"):
        join_cells(images[:3])


def test_items_are_named_once(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"item_id": "1", "prompt": " a "}\n{"item_id": "2", "prompt": "b"}\n')
    assert read_items(path) == {"1": "a", "2": "b"}
    path.write_text('{"item_id": "1", "prompt": "a"}\n{"item_id": "2", "prompt": "a"}\n')
    with pytest.raises(DataError, match="one prompt under two items"):
        read_items(path)
    path.write_text('{"item_id": "1"}\n')
    with pytest.raises(UsageError, match="line 1 has no item_id and prompt"):
        read_items(path)
    path.write_text("[" * 9000)
    with pytest.raises(UsageError, match="line 1 has no item_id and prompt"):
        read_items(path)
    with pytest.raises(UsageError, match=r"give DPG-Bench's \.csv"):
        read_items(tmp_path / "p.txt")
