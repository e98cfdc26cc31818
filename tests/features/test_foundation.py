"""DINOv2 and CLIP as extractors: resizing, equality with transformers, weights, refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_networks import (
    CLIP_WIDTH,
    DINO_WIDTH,
    clip_vision_config,
    save_clip,
    save_dinov2,
    spec_of,
)
from torch.nn.functional import interpolate

from evalsuite.config import ExtractorSpec, load_spec, names_of
from evalsuite.errors import ConfigError, DataError, UsageError
from evalsuite.features.aligned import concatenate, extract_all
from evalsuite.features.base import Extractor
from evalsuite.features.foundation.clip import OPENAI
from evalsuite.features.foundation.dinov2 import IMAGENET, positions_for
from evalsuite.features.foundation.files import network_sha256
from evalsuite.features.foundation.resizing import RULES, resize, resizing_named
from evalsuite.features.registry import build_extractor

CPU = torch.device("cpu")
NAMES = ("dinov2-vitl14", "dinov2-vitl14-pillow", "clip-vitl14-336")
SIZES = ((64, 64), (256, 256), (300, 512), (41, 7), (500, 224))
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small network of each family. Not to be changed."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("networks")
    return {"dinov2": save_dinov2(root / "dinov2"), "clip": save_clip(root / "clip")}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A network of one's own."""
    return lambda family: Path(shutil.copytree(folders[family], tmp_path / f"{family}-copy"))


def built(name: str, folder: Path, batch_size: int = 4) -> Extractor:
    """A shipped extractor with a small network."""
    width = CLIP_WIDTH if name.startswith("clip") else DINO_WIDTH
    return build_extractor(spec_of(name, width, batch_size), folder, CPU)


def of_name(folders: dict[str, Path], name: str) -> Path:
    return folders[load_spec(ExtractorSpec, name).family]


def picture(count: int, height: int, width: int, seed: int = 0) -> Images:
    """Smooth shapes with hard edges and noise, every level in use."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + i) + i) * np.cos(y / (4 + i)) for i in range(3 * count)]
    smooth = np.stack(waves).reshape(count, 3, height, width).transpose(0, 2, 3, 1)
    noisy = 128 + 140 * smooth + rng.normal(0, 20, smooth.shape)
    noisy[:, : height // 3] = np.where(noisy[:, : height // 3] > 128, 255, 0)
    return noisy.clip(0, 255).astype(np.uint8)


def resized(images: Images, rule: str) -> NDArray[np.float32]:
    """By ours, [N,S,S,C]."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return resize(tensor, resizing_named(rule)).permute(0, 2, 3, 1).numpy()


def cubic_weights(length: int, size: int) -> NDArray[np.float64]:
    """[size, length]: Keys' cubic with a = -0.5, widened when shrinking, rescaled at ends."""
    scale = max(length / size, 1.0)
    centres = (np.arange(size) + 0.5) * length / size
    t = np.abs((np.arange(length) + 0.5)[None] - centres[:, None]) / scale
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", SIZES)
def test_float_resizing_is_the_cubic_filter_in_any_direction(shape: tuple[int, int]) -> None:
    """Squeezed to a square, neither rounded nor clipped; the oracle is two matrices in float64.

    The tolerance is that of torch's float32 weights: 0.004 levels in each direction.
    """
    images = picture(1, *shape)
    down, across = cubic_weights(shape[0], 224), cubic_weights(shape[1], 224)
    expected = np.einsum("ih,jw,nhwc->nijc", down, across, images.astype(float), optimize=True)
    ours = resized(images, "bicubic-antialias-float-224")
    np.testing.assert_allclose(ours, expected, atol=8e-3)
    if shape == (64, 64):
        assert ours.min() < -5
        assert ours.max() > 260


@pytest.mark.parametrize("shape", SIZES)
def test_pillow_resizing_is_pillows(shape: tuple[int, int]) -> None:
    """To the last level."""
    images = picture(2, *shape)
    expected = np.stack([Image.fromarray(i).resize((224, 224), Image.BICUBIC) for i in images])
    np.testing.assert_array_equal(resized(images, "bicubic-pillow-224"), expected)


@pytest.mark.parametrize("shape", [*SIZES, (336, 336), (337, 400)])
def test_cmmd_resizing_crops_the_centre_and_is_pillows(shape: tuple[int, int]) -> None:
    """As the published program reads a folder."""
    (image,) = images = picture(1, *shape)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = Image.fromarray(image).crop((left, top, left + side, top + side))
    expected = np.asarray(square.resize((336, 336), Image.BICUBIC))
    ours = resized(images, "centre-crop-bicubic-pillow-336")[0]
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("rule", RULES)
def test_an_image_of_the_right_size_keeps_its_values(rule: str) -> None:
    side = RULES[rule].size
    images = picture(1, side, side)
    assert (resized(images, rule) == images).all()


def test_the_rules_of_the_shipped_extractors_exist() -> None:
    """And an unknown one is refused with the nearest."""
    shipped = [load_spec(ExtractorSpec, name) for name in names_of(ExtractorSpec)]
    ours = [spec for spec in shipped if spec.family in {"dinov2", "clip"}]
    assert {spec.name for spec in ours} == set(NAMES)
    assert {spec.resize for spec in ours} == set(RULES)
    assert len({spec.short for spec in ours}) == 3
    for spec in ours:
        assert (spec.path.parent / str(spec.card)).is_file()
    with pytest.raises(ConfigError, match="did you mean 'bicubic-pillow-224'"):
        resizing_named("bicubic-pillow-225")


def interpolated_by_hand(grid: NDArray[np.float64], side: int, offset: float) -> Any:
    """Cubic with a = -0.75, no antialias, edges repeated; coordinates from (side + offset) / G."""
    length = len(grid)
    weights = np.zeros((side, length))
    for i in range(side):
        at = (i + 0.5) * length / (side + offset) - 0.5
        for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            t = abs(at - k)
            near, far = (1.25 * t - 2.25) * t * t + 1, -0.75 * (((t - 5) * t + 8) * t - 4)
            weights[i, min(max(k, 0), length - 1)] += near if t <= 1 else far
    return np.einsum("ih,jw,hwd->ijd", weights, weights, grid)


def test_positions_are_interpolated_as_the_original_program_does() -> None:
    """With its 0.1, which transformers leaves out; the class token's stays."""
    positions = torch.randn(1, 1 + 37 * 37, 8, generator=torch.Generator().manual_seed(1))
    ours = positions_for(positions, 16)[0].double().numpy()
    grid = positions[0, 1:].double().numpy().reshape(37, 37, 8)
    expected = interpolated_by_hand(grid, 16, 0.1).reshape(256, 8)
    np.testing.assert_allclose(ours[1:], expected, atol=1e-4)
    np.testing.assert_array_equal(ours[0], positions[0, 0].double().numpy())
    without = interpolated_by_hand(grid, 16, 0.0).reshape(256, 8)
    assert np.abs(ours[1:] - without).max() > 0.1
    assert positions_for(positions, 37) is positions


def normalised(images: NDArray[Any], statistics: Any) -> torch.Tensor:
    mean, std = (np.array(values) for values in statistics)
    ready = (images.astype(np.float64) / 255 - mean) / std
    return torch.from_numpy(ready.transpose(0, 3, 1, 2)).float()


def squeezed(images: Images, name: str) -> NDArray[Any]:
    """As the programs write it: EDM2 by torch in floats, dgm-eval by Pillow."""
    if name.endswith("pillow"):
        return np.stack([Image.fromarray(i).resize((224, 224), Image.BICUBIC) for i in images])
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    squares = interpolate(floats, size=(224, 224), mode="bicubic", antialias=True)
    return squares.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", NAMES[:2])
def test_dinov2_features_are_those_of_transformers_called_by_hand(name: str, folders: Any) -> None:
    """The class token after the last norm, with the positions replaced by hand."""
    from transformers import Dinov2Model

    images = picture(4, 256, 256)
    network = Dinov2Model.from_pretrained(folders["dinov2"]).eval()
    pixels = normalised(squeezed(images, name), IMAGENET)
    with torch.no_grad():
        plain = network(pixel_values=pixels).pooler_output.numpy()
        table = network.embeddings.position_embeddings
        grid = table[0, 1:].double().numpy().reshape(37, 37, -1)
        moved = interpolated_by_hand(grid, 16, 0.1).reshape(1, 256, -1)
        network.embeddings.position_embeddings = torch.nn.Parameter(
            torch.cat((table[:, :1], torch.from_numpy(moved).float()), dim=1)
        )
        expected = network(pixel_values=pixels).pooler_output.numpy()
    batch = built(name, folders["dinov2"])(images)
    assert (batch.pool_ND.dtype, batch.pool_ND.shape) == (np.float32, (4, DINO_WIDTH))
    assert batch[1:] == (None, None)
    np.testing.assert_allclose(batch.pool_ND, expected, atol=1e-4)
    assert np.abs(batch.pool_ND - plain).max() > 1e-3


def test_clip_features_are_those_of_transformers_called_by_hand(folders: Any) -> None:
    """The projected embedding, not normalised."""
    from transformers import CLIPVisionModelWithProjection

    images = picture(4, 200, 300)
    cut = [Image.fromarray(image).crop((50, 0, 250, 200)) for image in images]
    squares = np.stack([square.resize((336, 336), Image.BICUBIC) for square in cut])
    network = CLIPVisionModelWithProjection.from_pretrained(folders["clip"]).eval()
    with torch.no_grad():
        expected = network(pixel_values=normalised(squares, OPENAI)).image_embeds.numpy()
    batch = built("clip-vitl14-336", folders["clip"])(images)
    assert (batch.pool_ND.dtype, batch.pool_ND.shape) == (np.float32, (4, CLIP_WIDTH))
    np.testing.assert_allclose(batch.pool_ND, expected, atol=1e-4, rtol=1e-4)
    assert np.linalg.norm(batch.pool_ND, axis=1).max() > 2


@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_the_batch(name: str, folders: Any) -> None:
    """Batches of 4 with a padded last one, and one by one."""
    images = picture(6, 64, 64, seed=3)
    together = concatenate(extract_all(built(name, of_name(folders, name)), [images])).pool_ND
    alone = built(name, of_name(folders, name), batch_size=1)
    singly = np.concatenate([alone(image[None]).pool_ND for image in images])
    np.testing.assert_allclose(together, singly, atol=1e-5, rtol=1e-5)
    assert np.ptp(together, axis=0).max() > 0.01


def test_a_faster_arithmetic_of_the_process_is_not_taken_over(folders: Any) -> None:
    """float32 products stay float32, and the process has its setting back."""
    images = picture(4, 64, 64)
    extractor = built("dinov2-vitl14", folders["dinov2"])
    exact = extractor(images).pool_ND
    torch.set_float32_matmul_precision("medium")
    try:
        again = extractor(images).pool_ND
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(exact, again)


@pytest.mark.parametrize("name", NAMES)
def test_another_precision_is_refused(name: str, folders: Any) -> None:
    spec = load_spec(ExtractorSpec, name).model_copy(update={"precision": "bfloat16"})
    with pytest.raises(ConfigError, match="runs in float32 only"):
        build_extractor(spec, folders[spec.family], CPU)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (np.zeros((4, 8, 8, 1), np.uint8), DataError, "8 x 8 x 1"),
        (np.zeros((4, 3, 8, 8), np.uint8), DataError, "3 x 8 x 8"),
        (np.zeros((3, 8, 8, 3), np.uint8), ValueError, "4 uint8 images"),
        (np.zeros((4, 8, 8, 3), np.float32), ValueError, "4 uint8 images"),
    ],
)
def test_what_are_no_rgb_batches_is_refused(
    images: Any, error: type[Exception], text: str, folders: Any
) -> None:
    with pytest.raises(error, match=text):
        built("dinov2-vitl14", folders["dinov2"])(images)


def test_the_digest_is_of_configuration_and_weights(copy: Callable[[str], Path]) -> None:
    """A readme or a preprocessor changes nothing; a weight or a setting does."""
    folder = copy("dinov2")
    before = network_sha256(folder)
    (folder / "README.md").write_text("hello")
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"a copy that is not opened")
    assert network_sha256(folder) == before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-5}))
    changed = network_sha256(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    weights = load_file(folder / "model.safetensors")
    weights["layernorm.bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert len({before, changed, network_sha256(folder)}) == 3


def test_weights_that_the_digest_would_not_tell_are_refused(copy: Callable[[str], Path]) -> None:
    """An adapter would be added to the network, and a quantization change its weights."""
    folder = copy("dinov2")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds an adapter_config\.json, whose weights"):
        network_sha256(folder)
    with pytest.raises(DataError, match=r"holds an adapter_config\.json"):
        built("dinov2-vitl14", folder)
    (folder / "adapter_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"config\.json has a quantization_config"):
        built("dinov2-vitl14", folder)


def test_an_extractor_is_named_by_the_weights_that_the_user_brings() -> None:
    """Without them there is no digest to record; with them the identity is theirs."""
    spec = load_spec(ExtractorSpec, "dinov2-vitl14")
    with pytest.raises(UsageError, match="dinov2-vitl14: give its weights with --extractor-weig"):
        _ = spec.weights_sha256
    ids = {spec.extractor_id}
    for digest in ("ab" * 32, "cd" * 32):
        source = spec.weights.model_copy(update={"file": "somewhere", "sha256": digest})
        given = spec.model_copy(update={"weights": source})
        assert given.weights_sha256 == digest
        ids.add(given.extractor_id)
    ids.add(load_spec(ExtractorSpec, "dinov2-vitl14-pillow").extractor_id)
    assert len(ids) == 4


def test_shards_and_pickled_tensors_are_read_too(
    copy: Callable[[str], Path], folders: Any, tmp_path: Path
) -> None:
    """The same weights in other containers give the same features."""
    from transformers import Dinov2Model

    images = picture(4, 64, 64)
    expected = built("dinov2-vitl14", folders["dinov2"])(images).pool_ND
    network = Dinov2Model.from_pretrained(folders["dinov2"])
    network.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    found = built("dinov2-vitl14", tmp_path / "shards")(images).pool_ND
    np.testing.assert_array_equal(found, expected)
    pickled = copy("dinov2")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    np.testing.assert_array_equal(built("dinov2-vitl14", pickled)(images).pool_ND, expected)


def test_a_whole_clip_gives_its_image_side(folders: Any, tmp_path: Path) -> None:
    """Text weights and an old buffer are no fault."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 99}
    config = CLIPConfig(
        vision_config=clip_vision_config(),
        text_config={**text, "num_attention_heads": 2},
        projection_dim=CLIP_WIDTH,
    )
    CLIPModel(config).save_pretrained(tmp_path / "whole")
    file = tmp_path / "whole" / "model.safetensors"
    weights = load_file(file) | load_file(folders["clip"] / "model.safetensors")
    weights["vision_model.embeddings.position_ids"] = torch.arange(37)[None]
    save_file(weights, file, metadata={"format": "pt"})
    images = picture(4, 64, 64)
    found = built("clip-vitl14-336", tmp_path / "whole")(images).pool_ND
    expected = built("clip-vitl14-336", folders["clip"])(images).pool_ND
    np.testing.assert_array_equal(found, expected)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_something_is_refused(copy: Callable[[str], Path]) -> None:
    """In one line, and nothing has run."""
    folder = copy("dinov2")
    state: dict[str, Any] = load_file(folder / "model.safetensors")
    torch.save({**state, "extra": Bomb(folder / "ran")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot load Dinov2Model") as caught:
        built("dinov2-vitl14", folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


def test_a_program_in_the_folder_is_not_run(copy: Callable[[str], Path], folders: Any) -> None:
    folder = copy("dinov2")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    images = picture(4, 64, 64)
    expected = built("dinov2-vitl14", folders["dinov2"])(images).pool_ND
    np.testing.assert_array_equal(built("dinov2-vitl14", folder)(images).pool_ND, expected)
    assert not (folder / "ran").exists()


def _without(folder: Path, key: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _with(folder: Path, key: str, tensor: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[key] = tensor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _index(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 64), "cannot load Dinov2Model"),
        (lambda f: _without(f, "layernorm.bias"), "missing layernorm.bias"),
        (lambda f: _with(f, "more.weight", torch.ones(2)), "unexpected more.weight"),
        (lambda f: _with(f, "layernorm.bias", torch.ones(2)), "another shape layernorm.bias"),
        (lambda f: _index(f, '{"weight_map": {"a": "../b.safetensors"}}'), "no plain file name"),
        (
            lambda f: _index(f, '{"weight_map": {"a": "b.safetensors"}}'),
            "names b.safetensors, which is missing",
        ),
        (lambda f: _index(f, '{"weight_map": {}}'), "has no weight_map"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(
    damage: Callable[[Path], Any], text: str, copy: Callable[[str], Path]
) -> None:
    folder = copy("dinov2")
    damage(folder)
    with pytest.raises(DataError, match=text) as caught:
        built("dinov2-vitl14", folder)
    assert "\n" not in str(caught.value)


def test_other_networks_are_refused(folders: Any, tmp_path: Path) -> None:
    """Another family, width, patch or image size; and a file where a folder is needed."""
    with pytest.raises(DataError, match="of the kind 'clip_vision_model', not 'dinov2'"):
        built("dinov2-vitl14", folders["clip"])
    with pytest.raises(DataError, match="of the kind 'dinov2', not 'clip'"):
        built("clip-vitl14-336", folders["dinov2"])
    with pytest.raises(DataError, match="width 32, but dinov2-vitl14 has the width 1024"):
        build_extractor(load_spec(ExtractorSpec, "dinov2-vitl14"), folders["dinov2"], CPU)
    with pytest.raises(DataError, match="width 24 for images of 336 pixels, but clip-vitl14-336"):
        build_extractor(load_spec(ExtractorSpec, "clip-vitl14-336"), folders["clip"], CPU)
    with pytest.raises(DataError, match="of 224 pixels, but"):
        built("clip-vitl14-336", save_clip(tmp_path / "small", image_size=224))
    with pytest.raises(DataError, match="patches of 37 do not divide 224"):
        built("dinov2-vitl14", save_dinov2(tmp_path / "odd", patch_size=37))
    with pytest.raises(DataError, match="is no folder"):
        network_sha256(folders["clip"] / "model.safetensors")
