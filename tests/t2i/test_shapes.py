"""The coloured shapes: pictures, captions, detector, encoder, pixels, and a run that is scored."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import call_in, call_main
from safetensors.torch import load_file

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.cli.prepare import with_benchmark
from evalsuite.config import NUMERICS_VERSION, BenchmarkSpec, ModelPreset, data_root, load_spec
from evalsuite.errors import UsageError
from evalsuite.pipeline.benchmark_files import metadata_of
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.materials import RerunRequest, materials_of
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.t2i.clustered import difference
from evalsuite.t2i.detections import Detections
from evalsuite.t2i.geneval import judge_image
from evalsuite.t2i.geneval_prompts import TAGS, parse_geneval_prompt
from evalsuite.t2i.geometry import relations_of
from evalsuite.t2i.shapes import (
    GROUND,
    OPTIONS,
    PALETTE,
    SHAPES,
    ShapeColors,
    ShapeDetector,
    outline,
)
from jobs.shapes import build_encoder, data, evidence
from jobs.shapes.train_denoiser import CONFIG

PINNED = Path(__file__).parents[1] / "pinned" / "shapes_batch0.npz"
NUM_PINNED = 8
DETECTOR, COLORS = ShapeDetector(), ShapeColors()


@pytest.fixture(scope="module")
def pictures() -> list[data.Picture]:
    """Of all kinds of captions, none held out."""
    return list(data.training_pictures(240, 11, frozenset()))


def verdicts(image: np.ndarray, *records: dict[str, Any]) -> list[bool]:
    """GenEval's, with the shapes' own detector."""
    (found,) = DETECTOR.detect([image])
    prompts = [parse_geneval_prompt(record, "a test") for record in records]
    judged = [judge_image(image, found, prompt, COLORS, OPTIONS) for prompt in prompts]
    return [one.verdict.correct for one in judged]


def box_of(thing: data.Thing) -> tuple[float, float, float, float]:
    return (thing.left, thing.top, thing.left + thing.side, thing.top + thing.side)


def test_pictures_show_what_their_captions_say(pictures: list[data.Picture]) -> None:
    """By the list of what was drawn, without a detector."""
    for picture in pictures:
        things, asked = picture.things, picture.record["include"]
        assert len(things) == sum(entry["count"] for entry in asked)
        for entry in asked:
            own = [thing for thing in things if thing.shape == entry["class"]]
            assert len(own) == entry["count"]
            assert all(thing.color == entry.get("color", thing.color) for thing in own)
            if "position" in entry:
                held = relations_of(box_of(own[0]), box_of(things[0]), 0.1)
                assert held == (entry["position"][0],)
        for a, b in itertools.combinations(things, 2):
            (left_a, top_a, right_a, low_a), (left_b, top_b, right_b, low_b) = box_of(a), box_of(b)
            gaps = (left_b - right_a, left_a - right_b, top_b - low_a, top_a - low_b)
            assert max(gaps) >= 1
    tags = {picture.record["tag"] for picture in pictures}
    assert tags == set(TAGS)


def test_a_seed_gives_the_same_pictures(pictures: list[data.Picture]) -> None:
    again = list(data.training_pictures(20, 11, frozenset()))
    for one, other in zip(again, pictures, strict=False):
        assert np.array_equal(one.image, other.image)
        assert one.record == other.record


def test_words_of_captions() -> None:
    circle, crosses = data.clause("circle", "red"), data.clause("cross", None, 2)
    assert data.counted("a photo of ", crosses)["prompt"] == "a photo of two crosses"
    assert data.paired("", circle, data.clause("square", "blue"))["prompt"] == (
        "a red circle and a blue square"
    )
    placed = data.placed("", data.clause("square", "blue"), "left of", circle)
    assert placed["prompt"] == "a blue square left of a red circle"
    assert placed["include"][1] == {**data.clause("square", "blue"), "position": ["left of", 0]}


def test_what_the_benchmark_holds_out_is_not_drawn() -> None:
    """Captions with two colours of the benchmark are in no training picture."""
    left_out = data.held_out()
    assert len(left_out) > 24
    drawn = {data.bare(p.record["prompt"]) for p in data.training_pictures(1500, 1, left_out)}
    assert drawn.isdisjoint(left_out)


def test_committed_prompts_and_tokenizer_are_what_the_programs_write() -> None:
    lines = metadata_of("shapes").read_text().splitlines()
    assert [json.loads(line) for line in lines] == data.benchmark_records()
    spec = load_spec(BenchmarkSpec, "shapes")
    assert spec.num_prompts == len(lines) == len({json.loads(line)["prompt"] for line in lines})
    folder = data_root() / "configs" / "models" / "pixnerd-shapes-text"
    built = json.loads(build_encoder.build_tokenizer().to_str())
    assert json.loads((folder / "tokenizer.json").read_text()) == built


def test_the_preset_is_the_network_that_is_trained() -> None:
    preset = load_spec(ModelPreset, "pixnerd-shapes")
    assert preset.text is not None
    assert preset.text.encoder == build_encoder.SPEC
    assert {key: getattr(CONFIG, key) for key in preset.network} == preset.network
    path = preset.path.parent / str(preset.weights.file)
    assert path.stat().st_size < 3_000_000
    state = load_file(path)
    assert sum(tensor.numel() for tensor in state.values()) == preset.parameters
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_outlines_cover_what_they_should() -> None:
    """Shares of the box: pi / 4, 1, 1 / 2 and 5 / 9."""
    shares = {shape: outline(shape, 60, 60).mean() for shape in SHAPES}
    assert shares == pytest.approx(
        {"circle": np.pi / 4, "square": 1, "triangle": 0.5, "cross": 5 / 9}, abs=0.01
    )
    with pytest.raises(ValueError, match="no shape star"):
        outline("star", 8, 8)


def test_the_detector_finds_boxes_shapes_and_colors(pictures: list[data.Picture]) -> None:
    for picture in pictures[:100]:
        (found,) = DETECTOR.detect([picture.image])
        seen = {
            (one.class_name, one.box, COLORS.colors_of(picture.image, [one], "")[0])
            for one in found.found
        }
        assert seen == {(t.shape, box_of(t), t.color) for t in picture.things}
        assert all(one.score > 0.98 for one in found.found)


@pytest.mark.parametrize("noise", [0, 12])
def test_drawn_pictures_are_right_and_only_as_what_they_are(
    pictures: list[data.Picture], noise: float
) -> None:
    """The wrong number, shape, colour or side is wrong, with and without noise."""
    rng = np.random.default_rng(0)
    for picture in pictures[:120]:
        noisy = np.rint(picture.image + rng.normal(0, noise, picture.image.shape))
        image = np.clip(noisy, 0, 255).astype(np.uint8)
        wrong = wrong_records(picture)
        right, *others = verdicts(image, picture.record, *wrong)
        assert right
        assert not any(others), (picture.record, wrong, others)


def wrong_records(picture: data.Picture) -> list[dict[str, Any]]:
    """Records that a picture does not show, one thing changed in each."""
    found = []
    for place, entry in enumerate(picture.record["include"]):
        count, drawn = entry["count"], {thing.shape for thing in picture.things}
        colors = {thing.color for thing in picture.things}
        absent = next(shape for shape in SHAPES if shape not in drawn)
        changes: list[dict[str, Any]] = [{"count": count + 1}, {"class": absent}]
        changes.append({"color": next(color for color in PALETTE if color not in colors)})
        if "position" in entry:
            opposite = {"left of": "right of", "above": "below"}
            opposite |= {there: here for here, there in opposite.items()}
            changes.append({"position": [opposite[entry["position"][0]], 0]})
        for change in changes:
            include = list(picture.record["include"])
            include[place] = {**entry, **change}
            found.append({**picture.record, "include": include})
    if picture.record["tag"] == "counting":
        (entry,) = picture.record["include"]
        fewer = {"include": [{**entry, "count": entry["count"] - 1}]}
        exclude = [{"class": entry["class"], "count": entry["count"]}]
        found.append({**picture.record, **fewer, "exclude": exclude})
    return found


def test_the_detector_takes_any_size_and_says_nothing_of_nothing() -> None:
    picture = next(data.training_pictures(1, 4, frozenset()))
    large = np.kron(picture.image, np.ones((3, 3, 1), dtype=np.uint8))
    assert verdicts(large, picture.record) == [True]
    ground = np.full((32, 48, 3), GROUND, dtype=np.uint8)
    speck = ground.copy()
    speck[3:6, 3:6] = PALETTE["red"]
    bar = ground.copy()
    bar[4:8, 2:40] = PALETTE["red"]
    empty, small, long = DETECTOR.detect([ground, speck, bar])
    assert (empty.found, small.found) == (Detections().found, ())
    assert [one.score < 0.2 for one in long.found] == [True]


def test_drawn_pictures_of_the_benchmark_score_at_least_98_percent() -> None:
    """Four pictures of each prompt, by the same rules and thresholds as a run's images."""
    asked = evidence.prompts()
    found = evidence.scores(evidence.drawn(asked), asked)
    assert min(found[tag].value for tag in (*TAGS, "overall")) >= 0.98
    assert max(found[tag].num_prompts for tag in TAGS) == 24


def first_batch() -> tuple[BatchSampler, np.ndarray]:
    resolved = resolve_plan(PlanOptions(model="pixnerd-shapes"))
    assert resolved.origin["text_encoder"] == "pixnerd-shapes-text"
    sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
    return sampler, sampler.batch(0).rows.images_NHWC[:NUM_PINNED]


def test_pixels_are_those_of_this_numerics_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the digits' in tests/test_pinned_pixels.py: through prompts and encoder, no cache."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    with np.load(PINNED, allow_pickle=False) as pinned:
        expected, numerics_id = pinned["images"], str(pinned["numerics_id"])
        version, plan_id = int(pinned["numerics_version"]), str(pinned["plan_id"])
    sampler, images = first_batch()
    assert version == NUMERICS_VERSION
    assert sampler.plan.plan_id == plan_id, "the preset's plan changed: pin its pixels again"
    if sampler.numerics_id == numerics_id:
        assert np.array_equal(images, expected), "pixels changed: raise NUMERICS_VERSION"
    difference = np.abs(images.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= 0.002


def test_what_cannot_be_scored_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    asked = {"prompts": None, "prompt": (), "num_samples": None, "images": None}
    found = with_benchmark({**asked, "benchmark": "shapes"})
    assert (found["prompts"], found["num_samples"]) == (metadata_of("shapes"), 528)
    with pytest.raises(UsageError, match="as a multiple of 132"):
        with_benchmark({**asked, "benchmark": "shapes", "num_samples": 100})
    with pytest.raises(UsageError, match="leave --images grid out"):
        with_benchmark({**asked, "benchmark": "shapes", "images": "grid"})
    asked_for = ("--model", "pixnerd-shapes", "--benchmark", "shapes", "--output", tmp_path / "run")
    dry = call_main("run", *asked_for, "--dry-run")
    assert (dry.code, "num_prompts      132\n" in dry.stdout) == (0, True), dry.stderr
    fetched = call_main("t2i", "fetch", "shapes")
    assert fetched.stdout.startswith(f"metadata       {metadata_of('shapes')}\n132 prompts")


def test_relations_and_colors_are_those_that_were_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than the opposite ones, which a model has that knows the words alone."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    asked = [prompt for prompt in evidence.prompts() if evidence.turned(prompt)]
    images = evidence.generated({"num_steps": 12}, None, asked)
    right = evidence.clusters(images, asked)
    wrong = evidence.clusters(images, asked, evidence.turned)
    assert set(right) == {"position", "color_attr"}
    for tag, clusters in right.items():
        assert sum(cluster.images for cluster in clusters) == 24 * evidence.PER_PROMPT
        found = difference(clusters, wrong[tag])
        low = found.value if found.interval is None else found.interval[0]  # all prompts alike
        assert low > 0, (tag, found)


def test_turned_prompts_are_wrong_of_drawn_pictures() -> None:
    asked = evidence.prompts()
    images = evidence.drawn(asked)[: len(asked)]
    found = evidence.scores(images, asked, evidence.turned)
    assert {tag: one.value for tag, one in found.items()} == {"position": 0.0, "color_attr": 0.0}


@pytest.mark.ray
def test_a_run_is_scored_well_above_chance(tmp_path: Path) -> None:
    """The whole path with Ray: prompts, encoder, images, detection, rules; then judged again."""
    options = ("--model", "pixnerd-shapes", "--benchmark", "shapes", "--num-samples", 132)
    options += ("--num-steps", 12)
    where = ("--output", "run", "--json", "run.json", "--num-workers", 1)
    done = call_in(tmp_path, "run", *options, *where)
    assert done.code == 0, done.stderr
    result = json.loads((tmp_path / "run.json").read_text())
    tags = result["benchmark"]["tags"]
    assert set(tags) == set(TAGS)
    run = RunDirectory.open(tmp_path / "run")
    images = np.stack([image for _, image in run.read_images(0, 132)])
    asked = evidence.prompts()
    chance = evidence.scores(images, asked, evidence.other_prompts(asked))
    for tag, one in tags.items():
        assert one["interval"][0] > chance[tag].value, (tag, one, chance[tag])
        assert f"{tag:16} {one['score']:.4f}" in done.stdout
    assert "GenEval (shapes detector): 132 images of 132 prompts" in done.stdout
    assert "nothing was scored" not in done.stderr
    (kept,) = (tmp_path / "run" / "verdicts").glob("shapes-*-132.jsonl")
    again = call_main(
        "t2i", "geneval", tmp_path / "run", "--detector", "shapes", "--output", tmp_path / "v.jsonl"
    )
    assert again.code == 0, again.stderr
    assert hashlib.sha256((tmp_path / "v.jsonl").read_bytes()).digest() == (
        hashlib.sha256(kept.read_bytes()).digest()
    )
    assert again.stdout.splitlines()[0] in done.stdout
    encoder = materials_of(run.manifest, RerunRequest()).encoder
    assert encoder == data_root() / "configs" / "models" / "pixnerd-shapes-text"
    refused = call_main(
        "t2i", "geneval", tmp_path / "run", "--detector", "shapes", "--clip", tmp_path,
        "--output", tmp_path / "w.jsonl",
    )  # fmt: skip
    assert (refused.code, "--clip is for Mask2Former" in refused.stderr) == (2, True)


if __name__ == "__main__":
    made_by, made = first_batch()
    np.savez_compressed(
        PINNED,
        images=made,
        numerics_id=np.array(made_by.numerics_id),
        numerics_version=np.array(NUMERICS_VERSION),
        plan_id=np.array(made_by.plan.plan_id),
    )
