"""The goldens of text to image: what the published scorers of GenEval and DPG-Bench answered.

Floats are compared to 1e-6, as the goldens' README has it; where it says otherwise, so do we.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalsuite.errors import DataError
from evalsuite.pipeline.geneval_run import clusters_of, results_of
from evalsuite.t2i.colors import (
    COLORS,
    CropOptions,
    color_logits,
    color_sentences,
    color_weights,
    cut_out,
    named,
)
from evalsuite.t2i.detections import Detection, Detections
from evalsuite.t2i.dpg import summarise_as_published
from evalsuite.t2i.dpg_questions import items_as_published, read_dpg_rows
from evalsuite.t2i.geneval import GenevalOptions, color_questions, judge, keep_objects
from evalsuite.t2i.geneval_prompts import GenevalPrompt, parse_geneval_prompt
from evalsuite.t2i.geneval_summary import GenevalSummary, summarise
from evalsuite.t2i.geometry import box_iou, relations_of
from evalsuite.t2i.grids import cut_cells
from evalsuite.t2i.layouts import read_geneval_folder, scored_by_the_original
from evalsuite.t2i.mask2former_output import Sizes, instances_of

CLOSE = 1e-6
DETECTOR = 1e-5
"""Of scores after two bilinear resizings in float32."""
LOGITS = 1e-3
ASKED = ("tag", "prompt", "include", "exclude")
"""What decides a verdict; layouts add more."""


def test_the_folder_of_text_to_image_has_cases(
    goldens: Path, cases_of: Callable[[str], list[Any]]
) -> None:
    """A missing or empty family is a failure, not a silence."""
    assert (goldens / "t2i").is_dir(), f"{goldens}/t2i does not exist"
    kinds = {case.kind for case in cases_of("t2i")}
    assert kinds == {
        "detector_postprocess",
        "dpg_answers",
        "dpg_expected",
        "geneval_images",
        "geneval_summary",
        "geneval_units",
    }


def test_verdicts_reasons_and_questions_equal_the_scorers(t2i_geneval_images_case: Any) -> None:
    count = 0
    for prompt, image in images_of(t2i_geneval_images_case.meta):
        assert_as_expected(prompt, image, image["expected"], GenevalOptions())
        count += 1
    assert count > 0


def test_other_options_change_the_same_verdicts(t2i_geneval_images_case: Any) -> None:
    variants = t2i_geneval_images_case.meta["variants"]
    assert variants
    for variant in variants:
        options = GenevalOptions.model_validate(variant["options"])
        changed = set()
        for prompt, image in images_of(t2i_geneval_images_case.meta):
            expected = variant["changed"].get(image["id"], image["expected"])
            assert_as_expected(prompt, image, expected, options, calls=False)
            changed |= {image["id"]} & variant["changed"].keys()
        assert changed == variant["changed"].keys()


def images_of(meta: dict[str, Any]) -> Iterator[tuple[GenevalPrompt, dict[str, Any]]]:
    for group in meta["prompts"]:
        prompt = parse_geneval_prompt(group["metadata"], "the golden")
        for image in group["images"]:
            yield prompt, image


def detections_of(image: dict[str, Any]) -> Detections:
    return Detections(
        tuple(
            Detection(
                one["class"],
                tuple(one["box"]),
                one["score"],
                None if one["mask"] is None else bits(one["mask"]),
            )
            for one in image["detections"]
        )
    )


def bits(rows: list[Any]) -> np.ndarray:
    """A mask from rows of 0 and 1, written as text or as numbers."""
    return np.array([[int(c) for c in row] for row in rows], dtype=bool)


def assert_as_expected(
    prompt: GenevalPrompt,
    image: dict[str, Any],
    expected: dict[str, Any],
    options: GenevalOptions,
    *,
    calls: bool = True,
) -> None:
    found = detections_of(image)
    kept = keep_objects(found, prompt.tag, options)
    questions = color_questions(kept, prompt)
    answers = {
        question.clause: [image["detections"][i]["color"] for i in question.objects]
        for question in questions
    }
    verdict = judge(found, kept, prompt, answers, options)
    assert (verdict.correct, "\n".join(verdict.reasons)) == (
        expected["correct"],
        expected["reason"],
    ), image["id"]
    assert {k: list(v) for k, v in kept.items()} == expected["kept"], image["id"]
    if calls:
        asked = [[q.class_name, list(q.objects)] for q in questions]
        assert asked == [list(call) for call in expected["color_calls"]], image["id"]


def test_aggregates_equal_the_summary(
    t2i_geneval_summary_case: Any, goldens: Path, cases_of: Callable[[str], list[Any]]
) -> None:
    """Each entry of the file is another selection of the same images."""
    (images,) = (case.meta for case in cases_of("t2i") if case.kind == "geneval_images")
    groups = [
        (
            group["prompt_index"],
            group["metadata"],
            [i["expected"]["correct"] for i in group["images"]],
        )
        for group in images["prompts"]
    ]
    for name, expected in t2i_geneval_summary_case.meta.items():
        rows = selection(name, groups, expected.get("note", ""))
        assert_summary(summarise(results_of(rows)), expected, name)
        prompts = {json.dumps([row["prompt"].get(key) for key in ASKED]) for row in rows}
        counted = {(tag, c.key) for tag, found in clusters_of(rows).items() for c in found}
        assert len(counted) == len(prompts), name  # intervals are by prompt in every layout


def selection(name: str, groups: list[Any], note: str) -> list[dict[str, Any]]:
    """Rows of verdicts, as far as sums need them."""
    chosen = [g for g in groups if name == "all_groups" or g[0] is not None]
    if name == "without_counting_and_position":
        chosen = [g for g in chosen if g[1]["tag"] not in {"counting", "position"}]
    elif name == "first_image_of_each_prompt":
        chosen = [(index, record, correct[:1]) for index, record, correct in chosen]
    elif name == "duplicated_prompt_folder":
        again = {int(number) for number in re.findall(r"\d+", note)}
        chosen += [g for g in chosen if g[0] in again]
    rows = []
    for index, record, correct in chosen:
        for k, one in enumerate(correct):
            own = {"seed": k, "filename": f"{index}_{k}"}
            own = own if name.endswith("one_folder_per_image") else {}
            rows.append({"prompt": {**record, **own}, "tag": record["tag"], "correct": one})
    return rows


def assert_summary(summary: GenevalSummary, expected: dict[str, Any], name: str) -> None:
    assert summary.total_images == expected["total_images"], name
    assert summary.total_prompts == expected["total_prompts"], name
    for field in ("fraction_correct_images", "fraction_correct_prompts", "overall"):
        assert getattr(summary, field) == pytest.approx(expected[field], abs=CLOSE), (name, field)
    assert f"{summary.overall:.5f}" == expected["printed_overall"]
    assert summary.tags.keys() == expected["tags"].keys()
    for tag, score in summary.tags.items():
        wanted = expected["tags"][tag]
        assert (score.correct, score.images) == (wanted["correct"], wanted["images"]), (name, tag)
        assert score.score == pytest.approx(wanted["score"], abs=CLOSE)


def test_positions_and_overlaps_equal_the_units(t2i_geneval_units_case: Any) -> None:
    meta = t2i_geneval_units_case.meta
    assert meta["relative_position"]
    assert meta["box_iou"]
    for one in meta["relative_position"]:
        held = relations_of(tuple(one["a"]), tuple(one["b"]), one["threshold"])
        assert list(held) == one["expected"], one
    for one in meta["box_iou"]:
        assert box_iou(tuple(one["a"]), tuple(one["b"])) == pytest.approx(
            one["expected"], abs=CLOSE
        )


def test_crops_equal_the_units(t2i_geneval_units_case: Any) -> None:
    assert t2i_geneval_units_case.meta["color_crops"]
    for one in t2i_geneval_units_case.meta["color_crops"]:
        image = np.array(one["image"], dtype=np.uint8)
        options = CropOptions(
            **({"background": None} if one["options"].get("bgcolor") == "original" else {}),
            crop=one["options"].get("crop", "1") != "0",
        )
        for thing, expected in zip(one["objects"], one["expected_crops"], strict=True):
            mask = None if thing["mask"] is None else bits(thing["mask"])
            crop = cut_out(image, Detection("x", tuple(thing["box"]), 1.0, mask), options)
            np.testing.assert_array_equal(crop, np.array(expected, dtype=np.uint8))


def test_colours_equal_the_units(t2i_geneval_units_case: Any) -> None:
    meta = t2i_geneval_units_case.meta
    assert meta["color_prompts"]
    assert meta["zero_shot_colors"]
    for name, expected in meta["color_prompts"].items():
        assert list(COLORS) == expected["classes"]
        assert [list(texts) for texts in color_sentences(name)] == expected["texts"]
    for one in meta["zero_shot_colors"]:
        weights = color_weights(torch.tensor(one["text_embeddings"]))
        logits = color_logits(torch.tensor(one["image_embeddings"]), weights)
        np.testing.assert_allclose(weights.weights_KE, one["expected_class_weights"], atol=LOGITS)
        np.testing.assert_allclose(logits, one["expected_logits"], atol=LOGITS)
        assert list(named(logits)) == one["expected_colors"]


def test_detections_equal_the_detectors(t2i_detector_postprocess_case: Any) -> None:
    meta = t2i_detector_postprocess_case.meta
    assert meta["cases"]
    for case in meta["cases"]:
        sizes = Sizes(*(tuple(case[k]) for k in ("batch_input_shape", "img_shape", "ori_shape")))
        found = instances_of(
            torch.tensor(case["class_logits"]),
            torch.tensor(case["mask_logits"]),
            sizes,
            case["max_per_image"],
        )
        expected = case["expected"]
        assert found.labels_D.tolist() == [one["label"] for one in expected]
        assert found.boxes_D4.tolist() == [one["box"] for one in expected]
        scores = [one["score"] for one in expected]
        np.testing.assert_allclose(found.scores_D, scores, atol=DETECTOR)
        areas = found.masks_DHW.flatten(1).sum(dim=1)
        assert areas.tolist() == [one["mask_area"] for one in expected]
        for mask, one in zip(found.masks_DHW, expected, strict=True):
            if one.get("mask") is not None:
                np.testing.assert_array_equal(mask.numpy(), bits(one["mask"]))


def test_the_layout_holds_what_the_scorer_finds(
    t2i_geneval_units_case: Any, tmp_path: Path
) -> None:
    """What the original scores of a folder, and that the stricter reader refuses it."""
    layout = t2i_geneval_units_case.meta["folder_layout"]
    root = tmp_path / "images"
    for folder in layout["folders"]:
        if folder.get("is_file"):
            root.mkdir(exist_ok=True)
            (root / folder["name"]).write_bytes(b"")
            continue
        samples = root / folder["name"] / "samples"
        samples.mkdir(parents=True)
        for name in layout["files_in_each_samples_folder"]:
            if name.endswith("/"):
                (samples / name).mkdir()
            else:
                (samples / name).write_bytes(b"")
    found = [str(path.relative_to(root)) for path in scored_by_the_original(root)]
    assert found == sorted(layout["expected_scored"])
    with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read"):
        read_geneval_folder(root)
    record = {"tag": "x", "prompt": "x", "include": [{"class": "cup", "count": 1}]}
    for folder in ("00000", "17"):
        (root / folder / "metadata.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"holds '0003\.jpg', which is no name such as 0000\.png"):
        read_geneval_folder(root)


def test_cells_are_cut_where_the_scorer_cuts_them(t2i_dpg_answers_case: Any) -> None:
    """Each pixel of a picture says where it lies, so a crop says where it was cut."""
    meta = t2i_dpg_answers_case.meta
    side = meta["resolution"]
    edge = {"0": 0, "R": side, "2R": 2 * side}
    y, x = np.mgrid[0 : 2 * side, 0 : 2 * side]
    picture = np.stack([y, x, np.full_like(y, 7)], axis=-1).astype(np.uint8)
    cells = cut_cells(picture, side)
    boxes = [[edge[word] for word in box] for box in meta["crop_boxes_for_resolution_R"]]
    for cell, (x1, y1, x2, y2) in zip(cells, boxes, strict=True):
        np.testing.assert_array_equal(cell, picture[y1:y2, x1:x2])


def test_dpg_scores_equal_the_scorers(
    t2i_dpg_expected_case: Any, cases_of: Callable[[str], list[Any]]
) -> None:
    """Images, prompts, categories, dropped files and the number of questions, in each setting."""
    (answered,) = (case.meta for case in cases_of("t2i") if case.kind == "dpg_answers")
    rows = read_dpg_rows(t2i_dpg_expected_case.path.with_name("dpg_questions.csv"))
    assert t2i_dpg_expected_case.meta
    for name, expected in t2i_dpg_expected_case.meta.items():
        items = items_as_published(rows, skip_first=name.startswith("official"))
        answers = answers_of(answered, expected["pic_num"])
        files = {item_of(one["file"]): one["file"] for one in answered["images"]}
        summary, results = summarise_as_published(items, answers)
        scored = {files[item]: result for item, result in results.items()}
        assert scored.keys() == expected["per_image_file"].keys(), name
        for file, wanted in expected["per_image_file"].items():
            got = [image.score for image in scored[file].images]
            assert got == pytest.approx(wanted["image_scores"], abs=CLOSE), (name, file)
            assert scored[file].score == pytest.approx(wanted["prompt_score"], abs=CLOSE)
        no_images = [one["file"] for one in answered["images"] if one.get("text")]
        failed = sorted([*(files[item] for item in summary.dropped), *no_images])
        assert failed == sorted(expected["failed_files"]), name
        assert summary.num_prompts == expected["scored_files"]
        assert summary.overall == pytest.approx(expected["overall"], abs=CLOSE)
        assert summary.broad == pytest.approx(expected["l1"], abs=CLOSE), name
        assert summary.detailed == pytest.approx(expected["l2"], abs=CLOSE), name


def item_of(file: str) -> str:
    return file.partition(".")[0]


def answers_of(answered: dict[str, Any], num_cells: int) -> dict[str, list[dict[int, str]]]:
    """What the judge said about the first cells of every picture."""
    found = {}
    for image in answered["images"]:
        if image.get("text"):
            continue
        words = answered["answers"].get(item_of(image["file"]), {})
        cells = [
            words.get(str(c) if c in image["cells"] else "black", {}) for c in range(num_cells)
        ]
        found[item_of(image["file"])] = [{int(q): a for q, a in cell.items()} for cell in cells]
    return found
