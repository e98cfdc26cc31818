"""The scorers' networks with small random weights: input, output, batches, weights, refusals."""

import copy
import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evalsuite.errors import DataError, EnvironmentProblem, UsageError
from evalsuite.pipeline.geneval_protocol import SWIN_S
from evalsuite.pipeline.t2i_judges import QWEN, JudgeSource
from evalsuite.pipeline.t2i_networks import (
    convert_detector,
    detector_protocol,
    load_colors,
    load_detector,
    read_object_names,
)
from evalsuite.t2i.clip_network import clip_pixels
from evalsuite.t2i.colors import COLORS
from evalsuite.t2i.detections import Detection, Detections
from evalsuite.t2i.detector_checks import (
    check_against_cpu,
    check_alive,
    check_colors_alive,
    check_shapes,
    compare_logits,
    found_instead,
    synthetic_picture,
)
from evalsuite.t2i.mask2former import Mask2FormerDetector
from evalsuite.t2i.mask2former_output import instances_of
from evalsuite.t2i.mmdet_weights import convert_mmdet, merged_as_swin, swin_s_config
from evalsuite.t2i.opencv_resize import fit_within, resize_bilinear
from evalsuite.t2i.qwen_judge import DIALOGUE, PICTURE, PatchOptions, fitted, spoken
from evalsuite.t2i.shapes import ShapeColors, ShapeDetector

sys.path.insert(0, str(Path(__file__).parent))
from tiny_scorers import NAMES, mmdet_state, save_blip, save_clip, save_detector, save_qwen

CPU = torch.device("cpu")
SMALL = {"long_edge": 96, "short_edge": 64}
OPENCV = [
    ((64, 64), (100, 100), "c4ffd88269f1b2a4dc0c92e200902f35e309cd386641b04a514349fa04d84108"),
    ((40, 64), (100, 160), "d285f36f8ffe91442c4be12e4cc8160575b84815becdbb54a342490a0947e107"),
    ((96, 96), (48, 48), "10e663148f56b53c251ef4c9fb0ba349daeec3ee79aa0d67442b996c57291f08"),
    ((100, 75), (61, 46), "140763031fb394ca4f6cd6a150d277857abee34a36b54650d3f24914f6d971a6"),
    ((128, 128), (100, 100), "f01d6149e746d8ee43dafd549389b06e8f26e5987c87c02c0cd4c428113481a6"),
]
"""SHA-256 of what cv2.resize gave, INTER_LINEAR, in OpenCV 4.8.1 and 5.0.0 alike."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scorers")
    return {
        "detector": save_detector(root / "detector"),
        "clip": save_clip(root / "clip"),
        "blip": save_blip(root / "blip"),
    }


@pytest.fixture(scope="module")
def detector(folders: dict[str, Path]) -> Mask2FormerDetector:
    loaded = load_detector(folders["detector"], NAMES, CPU)
    assert loaded.protocol["kind"] == "HF detector"
    return replace(loaded.network, **SMALL)


def pictures(count: int, size: tuple[int, int] = (40, 56)) -> list[np.ndarray]:
    """Blocks of colour, other ones in each."""
    found = []
    for seed in range(count):
        blocks = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
        found.append(np.asarray(Image.fromarray(blocks).resize(size[::-1], 0)))
    return found


@pytest.mark.parametrize(("size", "resized", "digest"), OPENCV)
def test_the_resize_is_opencvs_to_the_bit(
    size: tuple[int, int], resized: tuple[int, int], digest: str
) -> None:
    count = size[0] * size[1] * 3
    values = (np.arange(count, dtype=np.int64) * 2654435761 % 2**32) >> 24
    image = values.astype(np.uint8).reshape(*size, 3)
    assert hashlib.sha256(resize_bilinear(image, resized).tobytes()).hexdigest() == digest


def test_sizes_of_the_detectors_input() -> None:
    sizes = [(512, 512), (1024, 1024), (256, 512), (300, 520), (480, 640)]
    expected = [(800, 800), (800, 800), (667, 1333), (769, 1333), (800, 1067)]
    assert [fit_within(size, 1333, 800) for size in sizes] == expected


def test_input_is_padded_grey_and_then_normalised(detector: Mask2FormerDetector) -> None:
    (image,) = pictures(1)
    pixels, sizes = detector.prepare([image])
    assert sizes == ((64, 96), (64, 90), (40, 56))
    assert pixels.shape == (1, 3, 64, 96)
    grey = [
        (128 - m) / s
        for m, s in zip((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), strict=True)
    ]
    for channel in range(3):
        assert pixels[0, channel, :, 90:].unique().tolist() == pytest.approx([grey[channel]])
    red = (float(resize_bilinear(image, (64, 90))[10, 20, 0]) - 123.675) / 58.395
    assert float(pixels[0, 0, 10, 20]) == pytest.approx(red)


def test_a_batch_gives_what_single_images_give(detector: Mask2FormerDetector) -> None:
    """Two sizes among each other; the same classes, boxes and masks, and scores to rounding."""
    images = [*pictures(5), *pictures(2, (48, 48))]
    images = [images[i] for i in (0, 5, 1, 2, 6, 3, 4)]
    together = detector.detect(images)
    counts = [len(one.found) for one in together]
    assert min(counts) > 3
    assert len({one.found[0].class_name for one in together}) > 1
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert len(alone.found) == len(found.found)
        for a, b in zip(alone.found, found.found, strict=True):
            assert (a.class_name, a.box) == (b.class_name, b.box)
            assert a.score == pytest.approx(b.score, abs=1e-5)
            assert a.mask is not None
            assert a.mask.shape == image.shape[:2]
            np.testing.assert_array_equal(a.mask, b.mask)


def test_detections_are_those_of_the_raw_outputs(detector: Mask2FormerDetector) -> None:
    """What is returned is every instance above the least score, named by index."""
    (image,) = pictures(1)
    classes, masks, sizes = detector.logits([image])
    wanted = instances_of(classes[0], masks[0], sizes)
    assert wanted.masks_DHW.shape == (7 * len(NAMES), 40, 56)
    (found,) = detector.detect([image])
    kept = [i for i, score in enumerate(wanted.scores_D.tolist()) if score >= detector.min_score]
    assert [d.class_name for d in found.found] == [NAMES[int(wanted.labels_D[i])] for i in kept]
    assert [list(d.box) for d in found.found] == wanted.boxes_D4[kept].tolist()


def test_official_weights_become_a_folder(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From mmdet's names and order back to every tensor, through a pickle as mmdet writes it."""
    from safetensors.torch import load_file

    made = mmdet_state(folders["detector"])
    original = load_file(folders["detector"] / "model.safetensors")
    converted = convert_mmdet(made)
    left_out = {name for name in original if "swin.layernorm" in name or "criterion" in name}
    assert converted.keys() == original.keys() - left_out
    for name, tensor in converted.items():
        assert torch.equal(tensor, original[name]), name
    meta = {"mmdet_version": "2.27.0", "CLASSES": NAMES, "epoch": 50}
    torch.save({"meta": meta, "state_dict": made}, tmp_path / "official.pth")
    digest = convert_detector(tmp_path / "official.pth", tmp_path / "folder")
    assert digest == hashlib.sha256((tmp_path / "official.pth").read_bytes()).hexdigest()
    written = load_file(tmp_path / "folder" / "model.safetensors")
    assert written.keys() == converted.keys() | {"criterion.empty_weight"}
    with pytest.raises(UsageError, match="exists already"):
        convert_detector(tmp_path / "official.pth", tmp_path / "folder")
    kind = "mmdet detector (other weights)"
    assert detector_protocol(tmp_path / "folder", NAMES)["kind"] == kind
    monkeypatch.setattr("evalsuite.pipeline.t2i_networks.OFFICIAL", digest[:8])
    official = detector_protocol(tmp_path / "folder", NAMES)
    assert (official["kind"], official["network"]) == ("official detector", SWIN_S)
    of_tiny = detector_protocol(folders["detector"], NAMES)["network"]
    assert of_tiny == {
        "backbone": "swin", "embed_dim": 8, "depths": [1, 1, 2, 1], "num_queries": 7,
    }  # fmt: skip
    # the tiny sizes, not those of Swin-S, so that the written weights can be loaded and used
    config = (folders["detector"] / "config.json").read_text()
    (tmp_path / "folder" / "config.json").write_text(config)
    with pytest.raises(DataError, match="holds other weights or another configuration than its"):
        detector_protocol(tmp_path / "folder", NAMES)
    (tmp_path / "folder" / "evalsuite-origin.json").write_text("9" * 5000)
    with pytest.raises(DataError, match=r"cannot read .*origin"):
        detector_protocol(tmp_path / "folder", NAMES)
    (tmp_path / "folder" / "evalsuite-origin.json").unlink()
    again = replace(load_detector(tmp_path / "folder", NAMES, CPU).network, **SMALL)
    first = replace(load_detector(folders["detector"], NAMES, CPU).network, **SMALL)
    for a, b in zip(again.logits(pictures(2))[:2], first.logits(pictures(2))[:2], strict=True):
        assert torch.equal(a, b)


def test_patch_merging_computes_the_same_in_both_orders() -> None:
    """Oracle: mmdet's unfold with its weights against transformers' layer with the converted."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    channels, height, width = 8, 6, 8
    config = SwinConfig(embed_dim=channels, depths=[1, 1], num_heads=[1, 1], window_size=2)
    layer = SwinModel(config).encoder.layers[0].downsample
    x_BCHW = torch.randn(2, channels, height, width)
    norm, reduction = torch.randn(2, 4 * channels), torch.randn(2 * channels, 4 * channels)
    unfolded = torch.nn.functional.unfold(x_BCHW, kernel_size=2, stride=2).transpose(1, 2)
    normed = torch.nn.functional.layer_norm(unfolded, (4 * channels,), norm[0], norm[1])
    expected = normed @ reduction.T
    state = {"norm.weight": norm[0], "norm.bias": norm[1], "reduction.weight": reduction}
    layer.load_state_dict({name: merged_as_swin(value) for name, value in state.items()})
    tokens = x_BCHW.flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(tokens, (height, width)), expected, rtol=1e-4, atol=1e-4)


def test_the_official_networks_names_and_shapes_are_transformers_own() -> None:
    """The full-size configuration that a conversion writes: 68.7 M parameters, 80 classes."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    config = Mask2FormerConfig.from_dict(swin_s_config())
    with torch.device("meta"):
        network = Mask2FormerForUniversalSegmentation(config)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert 68.6e6 < count < 68.9e6
    assert network.class_predictor.out_features == 81
    assert len(network.model.transformer_module.decoder.layers) == 9


def test_other_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'neck\.conv\.weight' is no weight of mmdet 2's"):
        convert_mmdet({"neck.conv.weight": torch.zeros(1)})
    torch.save({"state_dict": {"a.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="holds no weights of mmdet's Mask2Former"):
        convert_detector(tmp_path / "other.pth", tmp_path / "out")
    with pytest.raises(DataError, match="has 5 classes, but 4 names were given"):
        load_detector(folders["detector"], NAMES[:4], CPU)
    with pytest.raises(DataError, match="of the kind 'clip', not 'mask2former'"):
        load_detector(folders["clip"], NAMES, CPU)
    (tmp_path / "names.txt").write_text("cup\ncup\n")
    with pytest.raises(UsageError, match="name each class once"):
        read_object_names(tmp_path / "names.txt")


def test_self_tests_tell_a_broken_detector(detector: Mask2FormerDetector) -> None:
    check_against_cpu(detector)
    image = synthetic_picture()
    (found,) = detector.detect([image])
    best = max(found.found, key=lambda d: d.score).class_name
    assert found_instead(detector, image, [best]) is None
    other = next(name for name in NAMES if name != best)
    assert str(found_instead(detector, image, [other])).startswith(f"{best} (")
    assert str(found_instead(detector, image, [best], 1.1)).startswith(f"{best} (")
    logits = [torch.randn(3, 4)]
    compare_logits([logits[0] + 1e-4], logits, "cuda")
    for broken in (torch.zeros(3, 4), torch.full((3, 4), float("nan")), logits[0] * 2):
        with pytest.raises(EnvironmentProblem, match="fails its self-test: on cuda"):
            compare_logits([broken], logits, "cuda")
    check_alive(detector)
    for weights, words in ((0.0, "always the same"), (float("nan"), "no number")):
        broken_one = replace(detector, network=copy.deepcopy(detector.network))
        for parameter in broken_one.network.parameters():
            parameter.data.fill_(weights)
        with pytest.raises(EnvironmentProblem, match=f"its answer is {words} on cpu"):
            check_alive(broken_one)


def test_the_self_test_tells_a_broken_classifier_of_colours(folders: dict[str, Path]) -> None:
    colors = load_colors(folders["clip"], CPU).network
    check_colors_alive(colors)
    for weights, words in ((0.0, "always the same"), (float("nan"), "no number")):
        broken = replace(colors, network=copy.deepcopy(colors.network))
        for parameter in broken.network.parameters():
            parameter.data.fill_(weights)
        with pytest.raises(EnvironmentProblem, match=f"its answer is {words} on cpu"):
            check_colors_alive(broken)


def test_the_shapes_detector_is_tested_on_a_rendered_picture() -> None:
    check_shapes(ShapeDetector(), ShapeColors())

    class Swapped(ShapeDetector):
        def detect(self, images: Any) -> list[Detections]:
            (found,) = super().detect(images)
            named = {"circle": "square", "square": "circle"}
            swap = [replace(d, class_name=named.get(d.class_name, "cross")) for d in found.found]
            return [Detections(tuple(swap))]

    class Red(ShapeColors):
        def colors_of(self, image: Any, objects: Any, class_name: str) -> tuple[str, ...]:
            return ("red",) * len(objects)

    with pytest.raises(EnvironmentProblem, match="on a picture of circle, square, triangle, cross"):
        check_shapes(Swapped(), ShapeColors())
    with pytest.raises(EnvironmentProblem, match="classifier of colours fails its self-test"):
        check_shapes(ShapeDetector(), Red())


def test_colours_are_those_of_transformers_called_by_hand(folders: dict[str, Path]) -> None:
    from transformers import CLIPModel

    colors = load_colors(folders["clip"], CPU).network
    image = pictures(1, (60, 90))[0]
    objects = [Detection("cup", (0, 0, 40, 30), 1.0), Detection("cup", (20, 5, 90, 60), 1.0)]
    together = colors.colors_of(image, objects, "cup")
    assert together == tuple(colors.colors_of(image, [one], "cup")[0] for one in objects)
    assert set(together) <= set(COLORS)
    assert colors.colors_of(image, [], "cup") == ()
    network = CLIPModel.from_pretrained(folders["clip"]).eval()
    tokens = colors.tokenize(["a photo of a red cup", "a dog"])
    pixels = clip_pixels([image[:30, :40], image[5:60, 20:90]], 32)
    with torch.inference_mode():
        out = network(
            **{k: tokens[k] for k in ("input_ids", "attention_mask")}, pixel_values=pixels
        )
        ours = colors.embed_texts(["a photo of a red cup", "a dog"])
        seen = colors.embed_images([image[:30, :40], image[5:60, 20:90]])
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(ours, dim=-1), unit(out.text_embeds, dim=-1))
    torch.testing.assert_close(unit(seen, dim=-1), unit(out.image_embeds, dim=-1))


def test_crops_lose_their_ends_as_clips_transform_has_it() -> None:
    """Short side to 32, centre cut out: of a long bar its middle third is seen."""
    bar = np.zeros((32, 96, 3), dtype=np.uint8)
    bar[:, 32:64] = 255
    pixels = clip_pixels([bar], 32)
    assert pixels.shape == (1, 3, 32, 32)
    white = (1 - 0.48145466) / 0.26862954
    assert float(pixels[0, 0].min()) == pytest.approx(white)


def test_a_clip_without_quickgelu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="activation 'gelu': OpenAI's weights need quick_gelu"):
        load_colors(save_clip(tmp_path / "clip", "gelu"), CPU)


def test_a_judge_answers_alike_alone_and_together(folders: dict[str, Path]) -> None:
    """Questions of other lengths; and as transformers' own `generate` answers."""
    judge: Any = JudgeSource(folders["blip"]).load(CPU)
    image = pictures(1)[0]
    questions = ["is there a cup ?", "is there a red cup in the picture ?", "any dog ?"]
    questions += ["is there a dog ?"]
    together = judge.answer(image, questions)
    assert together == [judge.answer(image, [question])[0] for question in questions]
    resized = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    pixels = (torch.tensor(resized).permute(2, 0, 1) / 255 - mean) / std
    with torch.inference_mode():
        ids = judge.network.generate(
            pixel_values=pixels[None],
            input_ids=torch.tensor([judge.encode(questions[0])]),
            max_new_tokens=10,
            do_sample=False,
        )
    assert together[0] == judge.decode(ids[0].tolist()).strip()


@pytest.mark.parametrize("kind", QWEN)
def test_qwens_answer_alike_alone_and_together(kind: str, tmp_path: Path) -> None:
    """And as transformers' own processing and `generate` answer, whatever the folder's defaults."""
    import transformers

    folder = save_qwen(tmp_path, kind)
    source = JudgeSource(folder)
    assert source.protocol["name"] == kind.replace("_", "-")
    assert len(source.protocol["weights_sha256"]) == 64
    judge: Any = source.load(CPU)
    image = pictures(1)[0]
    questions = ["is there a cup ?", "is there a red cup in the picture ?", "any dog ?"]
    questions += ["is there a dog ?", "is the clock red ?"]
    together = judge.answer(image, questions)
    assert together == [judge.answer(image, [question])[0] for question in questions]
    assert len(set(together)) > 1
    processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)
    seen = processor(images=[Image.fromarray(image)], return_tensors="pt")
    ours = judge.options.cut(image)
    assert torch.equal(torch.tensor([ours.grid]), seen["image_grid_thw"])
    torch.testing.assert_close(ours.pixels_PD, seen["pixel_values"], rtol=0, atol=1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    marks = PICTURE * (int(seen["image_grid_thw"].prod()) // 4)
    text = DIALOGUE.format(picture=marks, question=questions[0])
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    network = getattr(transformers, QWEN[kind]).from_pretrained(folder).eval()
    written = network.generate(
        input_ids=ids,
        mm_token_type_ids=(ids == network.config.image_token_id).int(),
        **seen,
        max_new_tokens=8,
        do_sample=False,
        repetition_penalty=1.0,
    )
    words = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert together[0] == spoken(words)


def test_sizes_that_qwens_see() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    options = PatchOptions(
        patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=3136, max_pixels=50176,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    )  # fmt: skip
    for size in [(512, 512), (100, 30), (20, 20), (13, 200), (1024, 300), (224, 224)]:
        theirs = smart_resize(*size, factor=28, min_pixels=3136, max_pixels=50176)
        assert fitted(*size, options) == theirs
    with pytest.raises(DataError, match="a picture of 4x1000 is too long"):
        fitted(4, 1000, options)


def test_what_counts_as_yes_and_no() -> None:
    said = ["Yes.", "yes, there is", " NO", "No, it is a dog.", "Maybe", "not yes", ""]
    assert [spoken(words) for words in said] == ["yes", "yes", "no", "no", "Maybe", "not yes", ""]


def test_folders_that_hold_no_judge(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of the kind 'clip', not 'blip'"):
        JudgeSource(folders["clip"])
    folder = save_qwen(tmp_path, "qwen2_5_vl")
    source = JudgeSource(folder)
    (folder / "preprocessor_config.json").write_text("[" * 9000)
    with pytest.raises(DataError, match="does not say how pictures are cut: brackets are more"):
        JudgeSource(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match="does not say how pictures are cut"):
        JudgeSource(folder)
    with pytest.raises(DataError, match="does not say how pictures are cut"):
        source.load(CPU)
