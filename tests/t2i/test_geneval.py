"""GenEval beyond its goldens: metadata that is wrong, missing images, broken detectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evalsuite.errors import DataError, UsageError
from evalsuite.t2i.colors import COLORS, CropOptions, cut_out, named
from evalsuite.t2i.detections import Detection, Detections, NoColors
from evalsuite.t2i.geneval import GenevalOptions, judge_image
from evalsuite.t2i.geneval_prompts import (
    check_words,
    parse_geneval_prompt,
    read_geneval_prompts,
)
from evalsuite.t2i.geneval_summary import ImageResult, summarise
from evalsuite.t2i.geometry import relations_of
from evalsuite.t2i.mask2former_output import Sizes, instances_of, tight_boxes

CUP = {"tag": "single_object", "prompt": "a cup", "include": [{"class": "cup", "count": 1}]}
IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)
BAD = [
    ([1], "is no JSON object"),
    ({**CUP, "include": []}, "include: .* has 0 entries|include"),
    ({**CUP, "prompt": "x" * 10_001}, "prompt"),
    ({**CUP, "include": [{"class": "cup", "count": 0}]}, "include.0.count: 0 is out of range"),
    ({**CUP, "include": [{"class": "cup", "cuont": 1}]}, "unknown key 'include.0.cuont'"),
    ({**CUP, "include": [{"class_name": "cup", "count": 1}]}, "include.0.class"),
    ({**CUP, "exclude": [{"class_name": "cup", "count": 2}]}, "exclude.0.class"),
    (
        {**CUP, "include": [{"class": "cup", "count": 1, "colour": "red"}]},
        r"unknown key 'include.0.colour': did you mean 'color'\?$",
    ),
    (
        {**CUP, "include": [{"class": "cup", "count": 1, "position": ["near", 0]}]},
        "include.0.position.0",
    ),
    (
        {**CUP, "include": [{"class": "cup", "count": 1, "position": ["above", 0]}]},
        "refers to clause 0, which must be an earlier one",
    ),
]


@pytest.mark.parametrize(("record", "line"), BAD)
def test_metadata_of_another_form_is_refused_by_its_line(
    tmp_path: Path, record: object, line: str
) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(f"{json.dumps(CUP)}\n{json.dumps(record)}\n")
    with pytest.raises(UsageError, match=line) as raised:
        read_geneval_prompts(path)
    assert f"{path} line 2" in str(raised.value)


def test_a_repeated_prompt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps(CUP)}\n\n{json.dumps({**CUP, 'seed': 1})}\n")
    with pytest.raises(UsageError, match="line 3 repeats the prompt of line 1"):
        read_geneval_prompts(path)
    path.write_text("\n")
    with pytest.raises(UsageError, match="holds no prompt"):
        read_geneval_prompts(path)


def test_what_a_scorer_does_not_know_is_refused() -> None:
    clauses = [{"class": "cup", "count": 1, "color": "black"}, {"class": "dog", "count": 1}]
    asked = parse_geneval_prompt({**CUP, "include": clauses, "exclude": clauses[1:]}, "")
    check_words([asked], ("cup", "dog"), COLORS, 16)
    many = parse_geneval_prompt({**CUP, "include": [{"class": "cup", "count": 17}]}, "")
    with pytest.raises(UsageError, match="has a count of 17, but of one class 16 objects"):
        check_words([many], ("cup",), COLORS, 16)
    exactly = {"include": [{"class": "cup", "count": 16}]}
    exactly["exclude"] = [{"class": "cup", "count": 17}]
    check_words([parse_geneval_prompt({**CUP, **exactly}, "")], ("cup",), COLORS, 16)
    for tag in ("texture", "three_object", "style", "negation", "COUNT"):  # any word of its own
        check_words([parse_geneval_prompt({**CUP, "tag": tag}, "")], ("cup",), COLORS, 16)
    for tag in ("countign", "color", "positions", "two_objects", "colour_attr"):
        with pytest.raises(UsageError, match=f"has the tag '{tag}', which .* did you mean"):
            check_words([parse_geneval_prompt({**CUP, "tag": tag}, "")], ("cup",), COLORS, 16)
    for classes, colors, line in [
        (("cup",), COLORS, "the object 'dog', which"),
        (("cup", "dog"), ("red", "blue"), "the colour 'black', which"),
    ]:
        with pytest.raises(UsageError, match=line):
            check_words([asked], classes, colors, 16)


def test_fields_that_decide_nothing_are_kept_for_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**CUP, "source": "me"}) + "\n")
    (prompt,) = read_geneval_prompts(path)
    assert prompt.record == {**CUP, "source": "me"}


def test_tags_of_other_suites_follow_the_published_ones() -> None:
    with pytest.raises(DataError, match="no verdicts"):
        summarise([])
    tags = ("zebra", "position", "apple", "single_object")
    summary = summarise(ImageResult(tag, tag, True) for tag in tags)
    assert list(summary.tags) == ["single_object", "position", "apple", "zebra"]
    assert summary.overall == 1


def test_a_detector_that_gives_nan_is_broken() -> None:
    for edge in (float("nan"), float("inf"), 1e308, -1.1e9):
        broken = Detections((Detection("cup", (0, 0, edge, 1), 0.5),))
        with pytest.raises(DataError, match=r"image 3: the detector gave cup a box .* NaN"):
            broken.checked("image 3", (4, 4))
    for mask in (np.ones((4, 5), dtype=bool), np.full((4, 4), np.nan)):
        with pytest.raises(DataError, match="image 3: the detector gave cup a mask of"):
            Detections((Detection("cup", (0, 0, 1, 1), 0.5, mask),)).checked("image 3", (4, 4))
    logits = torch.zeros(2, 3)
    masks = torch.full((2, 4, 4), float("nan"))
    sizes = Sizes((16, 16), (16, 16), (8, 8))
    with pytest.raises(DataError, match="NaN or infinite logits"):
        instances_of(logits, masks, sizes)
    with pytest.raises(DataError, match="gave NaN"):
        named(torch.tensor([[float("nan")] * 10]))


def test_a_colour_without_a_classifier_is_an_error_not_a_verdict() -> None:
    red = {**CUP, "include": [{"class": "cup", "count": 1, "color": "red"}]}
    found = Detections((Detection("cup", (0, 0, 4, 4), 0.9),))
    with pytest.raises(DataError, match="colour of cup, but no colour classifier"):
        judge_image(IMAGE, found, parse_geneval_prompt(red, ""), NoColors(), GenevalOptions())
    plain = judge_image(IMAGE, found, parse_geneval_prompt(CUP, ""), NoColors(), GenevalOptions())
    assert plain.verdict.correct
    assert plain.kept == {"cup": (0,)}


def test_opposite_relations_are_opposite() -> None:
    """Whatever holds of a to b, its opposite holds of b to a."""
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    rng = np.random.default_rng(0)
    for _ in range(300):
        corners = rng.integers(0, 100, size=(2, 2, 2))
        a, b = ((*c.min(axis=0), *(c.max(axis=0) + 1)) for c in corners)
        there = {opposite[relation] for relation in relations_of(a, b, 0.1)}
        assert there == set(relations_of(b, a, 0.1))
    assert relations_of((0, 0, 4, 4), (0, 0, 4, 4), 0.1) == ()


def test_crops_reach_outside_as_black_and_masks_must_fit() -> None:
    image = np.full((4, 4, 3), 200, dtype=np.uint8)
    crop = cut_out(image, Detection("x", (-2, 1, 2, 3), 1.0), CropOptions())
    assert crop.shape == (2, 4, 3)
    assert (crop[:, :2] == 0).all()
    assert (crop[:, 2:] == 200).all()
    wrong = Detection("x", (0, 0, 2, 2), 1.0, np.ones((3, 3), dtype=bool))
    with pytest.raises(DataError, match="does not fit"):
        cut_out(image, wrong, CropOptions())


def test_boxes_are_tight_and_exclusive() -> None:
    masks = torch.zeros(2, 6, 9, dtype=torch.bool)
    masks[0, 1:4, 2:9] = True
    assert tight_boxes(masks).tolist() == [[2, 1, 9, 4], [0, 0, 0, 0]]
