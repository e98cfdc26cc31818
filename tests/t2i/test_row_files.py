"""Damaged files of rows: one line that names the line, whatever is wrong with it."""

import hashlib
import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import call_main
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.errors import CorruptionError, DataError
from evalsuite.pipeline.geneval_run import summary_of
from evalsuite.pipeline.kept_objects import otherwise_kept, wrongly_kept
from evalsuite.pipeline.row_file import SCHEMA, is_written, read_rows, write_rows
from evalsuite.t2i.detections import Detection, Detections
from evalsuite.t2i.geneval import GenevalOptions, keep_objects
from evalsuite.t2i.geneval_prompts import TAGS

CUP = {"class": "cup", "count": 1, "color": "red"}
PROMPT = {"tag": "colors", "prompt": "a red cup", "include": [CUP]}
FOUND = {"class": "cup", "score": 0.9, "box": [0, 0, 4, 4.5], "mask": [3, 13]}
VERDICT = {
    "prompt": PROMPT, "number": 0, "size": [4, 4], "tag": "colors", "correct": True, "reasons": [],
    "kept": {"cup": [0]}, "colors": {"0": ["red"]}, "detections": [FOUND],
}  # fmt: skip
OPTIONS = {
    "threshold": 0.3, "counting_threshold": 0.9, "max_objects": 16, "max_overlap": 1.0,
    "position_threshold": 0.1,
}  # fmt: skip


def sha256_of(content: object) -> str:
    """Of its JSON, sorted and without blanks."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


FILES: dict[str, list[dict[str, Any]]] = {
    "geneval": [
        {
            "rules_version": 1,
            "prompts_sha256": sha256_of(PROMPT),
            "options": OPTIONS,
            "detector": {"kind": "x"},
            "colors": None,
        },
        VERDICT,
        {**VERDICT, "number": 1},
    ],
    "dpg": [
        {"csv_sha256": "c", "judge": {"name": "j"}},
        {
            "item_id": "a",
            "number": 0,
            "answers": {"1": "yes"},
            "prompt": "a cup",
            "questions": [{"id": 1, "parents": [], "category": "entity - whole", "text": "A cup?"}],
        },
        {"item_id": "a", "number": 1, "answers": {"1": "no"}},
    ],
    "scores": [
        {"scorer": {"name": "s"}, "prompts_sha256": sha256_of([["a", "a"]])},
        {"prompt": "a", "category": None, "number": 0, "score": 1},
        {"prompt": "a", "category": None, "number": 1, "score": 0.5},
    ],
}


def written(path: Path, benchmark: str, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    """A file that is right but for what `change` does to its lines."""
    lines: list[dict[str, Any]] = json.loads(json.dumps(FILES[benchmark]))
    lines[0] |= {"schema": SCHEMA, "source": "x", "num_images": 2, "benchmark": benchmark}
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("benchmark", FILES)
def test_a_file_that_is_right_is_read(tmp_path: Path, benchmark: str) -> None:
    _, rows = read_rows(written(tmp_path / "rows.jsonl", benchmark, lambda _: None))
    assert rows == FILES[benchmark][1:]


def test_prompts_of_an_earlier_version_are_not_checked_and_it_is_said(tmp_path: Path) -> None:
    """Their digest was another: a file of them is no damaged one, and of no published protocol."""
    path = written(tmp_path / "rows.jsonl", "geneval", lambda f: f[0].pop("rules_version"))
    path.write_text(path.read_text().replace(sha256_of(PROMPT), "0" * 64))
    assert "prompts that were not checked to be its 553" in summary_of(path)["departures"]


def test_a_prompt_may_be_scored_twice_or_lie_in_several_folders(tmp_path: Path) -> None:
    """A run may hold a prompt twice, and PixNerd writes a folder for each image."""

    def twice(file: list[Any]) -> None:
        file[2].update(number=0)
        file[0].update(prompts_sha256=sha256_of([["a", "a"], ["a", "a"]]))

    assert len(read_rows(written(tmp_path / "s.jsonl", "scores", twice))[1]) == 2

    def folders(file: list[Any]) -> None:
        file[2].update(number=0)
        other_folder(file[2])

    assert summary_of(written(tmp_path / "g.jsonl", "geneval", folders))["total_prompts"] == 2


def flipped(file: list[Any]) -> None:
    """A verdict that its objects contradict."""
    file[1].update(correct=False, reasons=["no"])


@pytest.mark.parametrize("benchmark", ["geneval", "dpg"])
def test_rules_of_a_later_version_are_not_read(tmp_path: Path, benchmark: str) -> None:
    """Whether what a file says follows from them cannot be told; it is no damage."""
    path = written(tmp_path / "r.jsonl", benchmark, lambda f: f[0].update(rules_version=99))
    with pytest.raises(
        DataError, match=r"line 1: rules_version is 99, and .* up to 1: read"
    ) as one:
        read_rows(path)
    assert not isinstance(one.value, CorruptionError)


@pytest.mark.parametrize("kind", ["x", "shapes detector"])
def test_verdicts_by_older_rules_are_not_checked_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = written(
        tmp_path / "r.jsonl",
        "geneval",
        lambda f: (flipped(f), f[0].update(detector={"kind": kind})),
    )
    with pytest.raises(CorruptionError, match="the row says 'no'"):
        summary_of(path)
    for module in ("row_shapes", "geneval_protocol"):
        monkeypatch.setattr(f"evalsuite.pipeline.{module}.RULES_VERSION", 2)
    said = "verdicts by rules 1, not 2, which were not checked"
    assert said in summary_of(path)["departures"]


def test_a_score_without_an_interval_says_why(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", "geneval", lambda _: None)
    done = call_main("t2i", "summary", path)
    assert done.code == 0, done.stderr
    assert (
        "colors: one prompt alone tells nothing of others, so it and overall have no" in done.stdout
    )


def one_more(file: list[Any], score: float, kept: list[int] | None = None, **options: Any) -> None:
    """Another cup in the first image, of the same box."""
    file[0]["options"].update(options)
    file[1]["detections"].append({**FOUND, "score": score})
    if kept is not None:
        file[1].update(kept={"cup": kept})


def renamed(*rows: dict[str, Any]) -> None:
    """Verdicts of another prompt."""
    for row in rows:
        row["prompt"]["prompt"] = "two"


def other_folder(row: dict[str, Any]) -> None:
    """The same prompt by another record, as PixNerd and PixelGen write a folder for each image."""
    row["prompt"]["seed"] = 1


def second_prompt(file: list[Any]) -> dict[str, Any]:
    """A third row, which has a prompt of its own that can be changed."""
    added: dict[str, Any] = {**file[1], "prompt": dict(file[1]["prompt"])}
    file.append(added)
    file[0].update(num_images=3)
    return added


def several_folders(file: list[Any]) -> None:
    """Three with one image each, of two prompts."""
    renamed(second_prompt(file))
    file[2].update(number=0)
    other_folder(file[2])


def all_of(file: list[Any], number: int) -> None:
    """One row, of such an image."""
    file.pop()
    file[0].update(num_images=1)
    file[1].update(number=number)


def one_for_another(file: list[Any]) -> None:
    """Two prompts of two images each, but an image of one is there twice, and one is not."""
    pairs = [("a", 0), ("b", 0), ("a", 1), ("a", 1)]
    file[1:] = [{**file[1], "prompt": prompt, "number": number} for prompt, number in pairs]
    file[0].update(num_images=4, prompts_sha256=sha256_of([["a", "a"], ["b", "b"]]))


DAMAGE: list[tuple[str, Callable[[list[Any]], object], str]] = [
    ("dpg", lambda f: f[1].pop("answers"), "line 2 is damaged: answers: "),
    ("dpg", lambda f: f[2]["answers"].update({"1": 3}), "line 3 is damaged: answers.1"),
    ("dpg", lambda f: f[1]["answers"].update(x="yes"), "line 2 is damaged: answers.x"),
    ("dpg", lambda f: f[1]["answers"].update({"01": "no"}), "line 2 is damaged: answers.01"),
    ("dpg", lambda f: f[2]["answers"].update({"01": "no"}), "line 3 is damaged: answers.01"),
    ("dpg", lambda f: f[2]["answers"].update({"3": "no"}), "line 3 .* other questions than .* 'a'"),
    ("dpg", lambda f: f[2]["answers"].clear(), "line 3 .* to other questions than those of 'a'"),
    ("dpg", lambda f: f[0].pop("judge"), "line 1 is damaged: judge: "),
    ("dpg", lambda f: f[0].pop("csv_sha256"), "line 1 is damaged: csv_sha256: "),
    ("dpg", lambda f: f[0].update(benchmark="zzz"), "line 1 is damaged: benchmark 'zzz' is none"),
    ("dpg", lambda f: f[0].update(benchmark=["dpg"]), "line 1 is damaged: benchmark"),
    ("dpg", lambda f: (f.append(f[1]), f[0].update(num_images=3)), "line 4 .* image as line 2"),
    ("geneval", lambda f: (f.append(f[2]), f[0].update(num_images=3)), "line 4 .* as line 3"),
    ("geneval", lambda f: f[0].update(rules_version="x"), "line 1 is damaged: rules_version: "),
    ("geneval", lambda f: f[0].update(rules_version=None), "line 1 is damaged: rules_version: "),
    ("dpg", lambda f: f[0].update(rules_version=True), "line 1 is damaged: rules_version must"),
    (
        "scores",
        lambda f: f[0].update(num_images="2"),
        'line 1 is damaged: num_images is "2", which',
    ),
    ("dpg", lambda f: f[0].update(num_images=True), "line 1 is damaged: num_images is true, which"),
    ("dpg", lambda f: f[0].update(num_images=2.0), "line 1 is damaged: num_images is 2.0, which"),
    ("dpg", lambda f: f[0].pop("num_images"), "line 1 is damaged: num_images is null, which"),
    ("dpg", lambda f: f.append(f[2]), "line 4 is damaged: it is one more than num_images, which"),
    ("geneval", lambda f: f[1].pop("kept"), "line 2 is damaged: kept: "),
    ("geneval", lambda f: f[1].update(kept={"cup": [1]}), "line 2 .* kept names detection 1 of 1"),
    ("geneval", lambda f: f[2].update(colors={"1": ["red"]}), "line 3 .* colors of a clause"),
    ("geneval", lambda f: f[2].update(correct="yes"), "line 3 is damaged: correct"),
    ("geneval", lambda f: f[2]["prompt"].pop("tag"), "line 3 is damaged: its prompt: tag"),
    ("geneval", lambda f: f[0]["options"].update(threshold="x"), "line 1 .* options.threshold"),
    ("geneval", lambda f: f[0]["options"].pop("threshold"), "line 1 .* options lack threshold"),
    ("geneval", lambda f: f[1]["detections"][0].pop("class"), "line 2 .* detections.0.class"),
    ("geneval", lambda f: f[1]["detections"][0]["mask"].append(4), "mask of .* 0 is of 20 pixels"),
    ("geneval", lambda f: f[1].update(size=[4, 5]), "mask of .* is of 16 pixels, not 20"),
    ("geneval", lambda f: f[2].update(tag="counting"), "line 3 .* its prompt's is 'colors'"),
    ("geneval", lambda f: f[1].update(correct=False), "line 2 .* correct is False, with 0 reas"),
    ("geneval", lambda f: f[1].update(reasons=["no"]), "line 2 .* correct is True, with 1 reas"),
    (
        "geneval",
        lambda f: f[1].update(kept={}),
        "line 2 .* leaves out detection 0, which the rules keep",
    ),
    ("geneval", lambda f: f[1].update(colors={"0": ["blue"]}), "line 2 .* the row says 'correct'"),
    ("geneval", lambda f: f[2].update(correct=False, reasons=["no"]), "line 3 .* says 'no'"),
    ("geneval", lambda f: f[1].update(kept={"dog": [0]}), "line 2 .* 0 'dog', which is of another"),
    ("geneval", lambda f: f[1].update(kept={"cup": [0, 0]}), "line 2 .* of 'cup' twice"),
    ("geneval", lambda f: f[1]["detections"][0].update(score=0.2), "line 2 .* score is below 0.3"),
    ("geneval", lambda f: f[1]["detections"][0].update(score=1.2), "line 2 .* at most 1"),
    (
        "geneval",
        lambda f: f[1]["detections"][0].update(box=[-1e308, 0, 1e308, 9]),
        "line 2 is damaged: detections.0.box.0",
    ),
    ("geneval", lambda f: f[1]["detections"][0]["box"].reverse(), "line 2 .* ends before it"),
    (
        "geneval",
        lambda f: one_more(f, 0.8),
        "line 2 .* leaves out detection 1, which the rules keep",
    ),
    ("geneval", lambda f: one_more(f, 0.8, kept=[1, 0]), "line 2 .* not from the best on"),
    (
        "geneval",
        lambda f: one_more(f, 0.8, kept=[0, 1], max_objects=1),
        "line 2 .* names 2 detections of a class of which 1 count at most",
    ),
    (
        "geneval",
        lambda f: one_more(f, 0.95, kept=[0], max_objects=1),
        "line 2 .* names detection 0, which the rules leave out",
    ),
    (
        "geneval",
        lambda f: one_more(f, 0.8, kept=[0, 1], max_overlap=0.5),
        "line 2 .* names detection 1, which the rules leave out",
    ),
    (
        "geneval",
        lambda f: f[0].update(prompts_sha256="0" * 64),
        "line 1 .* prompts_sha256 is '000000000000'..., and that of its rows",
    ),
    ("geneval", lambda f: renamed(f[1], f[2]), "line 1 .* that of its rows"),
    (
        "geneval",
        lambda f: renamed(f[2]),
        "line 3 is damaged: no row is of the first image of 'two'",
    ),
    ("geneval", lambda f: f[2].update(number=2), "has 0 rows of image 1 of 'a red cup', and 1 of"),
    ("geneval", lambda f: all_of(f, 5), "line 2 .* no row is of the first image of 'a red cup'"),
    ("geneval", lambda f: renamed(second_prompt(f)), "has 0 rows of image 1 of 'two', and 1 of"),
    ("geneval", lambda f: other_folder(second_prompt(f)), "has 0 rows of image 1 of 'a red cup'"),
    ("geneval", lambda f: several_folders(f), "has 2 rows of 'a red cup' and 1 of 'two': rows"),
    ("dpg", lambda f: f[2].update(number=7), "has 0 rows of image 1 of 'a', and 1 of the first"),
    ("scores", lambda f: f[2].update(number=7), "has 0 rows of image 1 of 'a', and 1 of the first"),
    ("scores", lambda f: f[2].update(prompt="zzz"), "line 3 .* no row is of the first image of"),
    ("scores", lambda f: f[2].update(category="b"), "line 3 .* the first image of 'a' of 'b'"),
    ("scores", lambda f: one_for_another(f), "line 5 .* one more of image 1 of 'a' than of"),
    ("scores", lambda f: f[0].update(prompts_sha256="0" * 64), "line 1 .* that of its rows"),
    ("scores", lambda f: f[1].update(category="b"), "line 1 .* that of its rows"),
    ("dpg", lambda f: f[1].pop("prompt"), "line 2 .* without prompt or questions"),
    ("dpg", lambda f: f[1].pop("questions"), "line 2 .* without prompt or questions"),
    ("dpg", lambda f: f[1]["questions"][0].pop("text"), "line 2 .* questions.0.text"),
    ("dpg", lambda f: f[1]["questions"][0].update(id=2), "line 2 .* others than were answered"),
    ("dpg", lambda f: f[2].update(item_id="b"), "line 3 .* first image of 'b'"),
    ("scores", lambda f: f[1].pop("score"), "line 2 is damaged: score: "),
    ("scores", lambda f: f[1].update(score=1.7e308), "line 2 is damaged: score: "),
    ("scores", lambda f: f[0].update(scorer={}), "line 1 is damaged: scorer"),
    ("scores", lambda f: (f.append(f[1]), f[0].update(num_images=3)), "line 1 .* that of its rows"),
]


@pytest.mark.parametrize(("benchmark", "change", "line"), DAMAGE)
def test_damage_is_named_by_its_line(
    tmp_path: Path, benchmark: str, change: Callable[[list[Any]], object], line: str
) -> None:
    path = written(tmp_path / "rows.jsonl", benchmark, change)
    with pytest.raises(CorruptionError, match=line) as raised:
        read_rows(path)
    assert "\n" not in str(raised.value)
    done = call_main("t2i", "summary", path, *(("--dpg-csv", path) if benchmark == "dpg" else ()))
    assert (done.code, done.stderr.count("\n")) == (3, 1), done.stderr


@pytest.mark.parametrize(
    "line",
    ["[" * 9000, '{"schema": 2, "x": ' + "9" * 5000 + "}", "[1]", ""],
    ids=["too deep", "too long a number", "a list", "nothing"],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str, place: int) -> None:
    path = written(tmp_path / "rows.jsonl", "dpg", lambda _: None)
    lines = path.read_text().splitlines()
    lines[place] = line
    path.write_text("".join(f"{one}\n" for one in lines))
    with pytest.raises(CorruptionError, match=f"line {place + 1} is no"):
        read_rows(path)


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ((0.5, 0.7), "mean             0.6000  (-0.6706 to 1.8706)"),
        ((1e-7, 3e-7), "mean             2.000e-07  (-1.071e-06 to 1.471e-06)"),
        ((1e100, 9e99), "mean             9.500e+99  (3.147e+99 to 1.585e+100)"),
        ((1e-170, 2e-170), "mean             1.500e-170  no interval: it is the same for every"),
        (
            (0.0, 0.0),
            "mean             0.0000  no interval: it is the same for every prompt, up to",
        ),
        ((3.0,), "mean             3.0000  no interval: one prompt alone tells nothing of others"),
    ],
)
def test_scores_of_any_size_are_read_with_their_digits(
    tmp_path: Path, scores: tuple[float, ...], line: str
) -> None:
    """Of two values the interval is half of their distance about the mean, times 12.706."""

    def of(file: list[Any]) -> None:
        file[1:] = [
            {**file[1], "prompt": p, "score": s} for p, s in zip("ab", scores, strict=False)
        ]
        prompts = [["a", "a"], ["b", "b"]][: len(scores)]
        file[0].update(num_images=len(scores), prompts_sha256=sha256_of(prompts))

    done = call_main("t2i", "summary", written(tmp_path / "rows.jsonl", "scores", of))
    assert done.stdout.startswith(line), done.stdout + done.stderr


@pytest.mark.parametrize("benchmark", FILES)
def test_what_an_editor_leaves_at_the_end_is_no_damage(tmp_path: Path, benchmark: str) -> None:
    """Blank lines, or a last one without its end; but a cut one is not there."""
    path = written(tmp_path / "rows.jsonl", benchmark, lambda _: None)
    content = path.read_bytes()
    for end in (b"\n\n", b"\n \r\n", b"\r\n", b""):
        path.write_bytes(content.removesuffix(b"\n") + end)
        assert read_rows(path)[1] == FILES[benchmark][1:]
    path.write_bytes(content[:-2])
    with pytest.raises(DataError, match="holds 1 rows of 2: run the same command again"):
        read_rows(path)


def test_files_of_two_benchmarks_are_not_compared(tmp_path: Path) -> None:
    """Whatever is given besides, and whichever is the first."""
    paths = {name: written(tmp_path / f"{name}.jsonl", name, lambda _: None) for name in FILES}
    for a, b in permutations(FILES, 2):
        refused = call_main("t2i", "compare", paths[a], paths[b], "--dpg-csv", tmp_path / "no.csv")
        assert refused.code == 3, refused.stderr
        assert f"is of {a} and {paths[b]} of {b}: no comparison" in refused.stderr


@pytest.mark.parametrize("benchmark", ["geneval", "scores"])
def test_questions_are_of_dpg_alone(tmp_path: Path, benchmark: str) -> None:
    path = written(tmp_path / "rows.jsonl", benchmark, lambda _: None)
    for command in (("summary", path), ("compare", path, path)):
        refused = call_main("t2i", *command, "--dpg-csv", path)
        assert (refused.code, refused.stdout) == (2, "")
        assert f"holds rows of {benchmark}: --dpg-csv is of" in refused.stderr
    compared = call_main("t2i", "compare", path, path)
    assert compared.code == 0, compared.stderr
    for line in compared.stdout.splitlines():
        assert line.endswith("+0.0000  no interval: one prompt alone tells nothing of others")


def test_a_folder_is_no_file_of_rows(tmp_path: Path) -> None:
    done = call_main("t2i", "summary", tmp_path)
    assert done.stderr.endswith(f"cannot read {tmp_path}: it is a folder, not a file of rows\n")


def test_row_files_of_other_things_are_refused(tmp_path: Path) -> None:
    for content, error in [
        ("not json\n", CorruptionError),
        ("{}\n", CorruptionError),
        ("", CorruptionError),
        ('{"schema": 99}\n', DataError),
    ]:
        path = tmp_path / "rows.jsonl"
        path.write_text(content)
        with pytest.raises(error):
            is_written(path, {"benchmark": "geneval"})
    write_rows(path, {"benchmark": "geneval", "num_images": 2}, [{"a": 1}])
    with pytest.raises(DataError, match="holds 1 rows of 2"):
        read_rows(path)


NEAR = st.sampled_from([0.3, 0.8, 0.9]).flatmap(lambda at: st.floats(at - 2e-6, at + 2e-6))
BOXES = st.sampled_from([(0.0, 0.0, 9.0, 9.0), (0.0, 0.0, 9.0, 7.5), (5.0, 5.0, 9.0, 9.0)])
DETECTIONS = st.lists(st.tuples(st.sampled_from(["cup", "dog"]), NEAR | st.floats(0, 1), BOXES))


@settings(max_examples=200, deadline=None)
@given(DETECTIONS, st.integers(1, 4), st.sampled_from([0.5, 1.0]), st.sampled_from(TAGS))
def test_what_the_rules_keep_is_never_refused(
    found: list[tuple[str, float, Any]], most: int, overlap: float, tag: str
) -> None:
    """Though rows hold rounded scores; but one less, or one of none, is."""
    options = GenevalOptions(max_objects=most, max_overlap=overlap)
    seen = Detections(tuple(Detection(name, box, score) for name, score, box in found))
    kept = {name: list(places) for name, places in keep_objects(seen, tag, options).items()}
    said = [
        {"class": one.class_name, "box": one.box, "score": round(float(np.float32(one.score)), 6)}
        for one in seen.found
    ]
    row = {"tag": tag, "kept": kept, "detections": said}
    assert (wrongly_kept(row, options), otherwise_kept(row, options)) == ("", "")
    clear = {**row, "detections": [*said, {"class": "cat", "box": (0, 0, 9, 9), "score": 0.95}]}
    assert "leaves out" in otherwise_kept(clear, options)
    clear["kept"] = {**kept, "cat": [len(said)]}
    assert otherwise_kept(clear, options) == ""
