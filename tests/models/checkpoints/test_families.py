"""Every published network is recognised by its keys and shapes, with its sizes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import KEYS, NETWORK, full_size_shapes, on_meta
from safetensors import safe_open

from evalsuite.config import ModelPreset, load_spec
from evalsuite.errors import ConfigError
from evalsuite.models.checkpoints.families import (
    FAMILIES,
    Recognised,
    describe,
    nearest_presets,
    recognise,
)
from evalsuite.models.registry import MODELS

FULL_SIZE = {
    "pixnerd/keys_c2i_xl_256": (
        "pixnerd-class",
        {"hidden_size": 1152, "num_groups": 16, "num_blocks": 30, "num_cond_blocks": 26}
        | {"hidden_size_x": 64, "nerf_mlpratio": 2, "patch_size": 16, "num_classes": 1000},
    ),
    "pixnerd/keys_c2i_large_256": (
        "pixnerd-class",
        {"hidden_size": 1024, "num_groups": 16, "num_blocks": 24, "num_cond_blocks": 22},
    ),
    "pixnerd/keys_t2i_xxl_heavydecoder": (
        "pixnerd-text",
        {"hidden_size": 1536, "num_groups": 24, "num_encoder_blocks": 16, "num_text_blocks": 4}
        | {"num_decoder_blocks": 2, "txt_embed_dim": 2048, "txt_max_length": 128},
    ),
    "pixelgen/keys_pixelgen_xl_16_256": (
        "pixelgen-class",
        {"hidden_size": 1152, "num_heads": 16, "depth": 28, "use_bottleneck": False}
        | {"input_size": 256, "patch_size": 16, "in_context_len": 32, "mlp_ratio": 4.0},
    ),
    "pixelgen/keys_pixelgen_l_16_256": (
        "pixelgen-class",
        {"hidden_size": 1024, "depth": 24, "use_bottleneck": True, "bottleneck_dim": 128},
    ),
    "pixelgen/keys_pixelgen_xxl_16_512_t2i": (
        "pixelgen-text",
        {"hidden_size": 1536, "num_blocks": 16, "num_text_blocks": 4, "input_size": 512}
        | {"bottleneck_dim": 256, "txt_max_length": 128, "num_groups": 24},
    ),
    "pixeldit/keys_pixeldit_xl_16": (
        "pixeldit-class",
        {"hidden_size": 1152, "num_groups": 16, "patch_depth": 26, "pixel_depth": 4}
        | {"pixel_hidden_size": 16, "num_classes": 1000},
    ),
    "pixeldit/keys_pixeldit_t2i_1300m": (
        "pixeldit-text",
        {"hidden_size": 1536, "patch_depth": 14, "pixel_depth": 2, "pixel_num_groups": 16}
        | {"pixel_attn_hidden_size": 1152, "txt_embed_dim": 2304, "txt_max_length": 300},
    ),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_published_networks(name: str) -> None:
    family, sizes = FULL_SIZE[name]
    found = recognise(full_size_shapes(name))
    assert found is not None
    assert (found.family, found.note) == (family, "")
    assert {key: found.network[key] for key in sizes} == sizes


def goldens() -> list[Path]:
    """Cases of the goldens that carry a reduced network's keys."""
    return [p for p in sorted(KEYS.glob("pixel*/*.npz")) if ".debug" not in p.name]


@pytest.mark.parametrize("path", goldens(), ids=lambda path: path.stem)
def test_sizes_of_reduced_networks_are_the_constructors(path: Path) -> None:
    """What is inferred is what the original constructor was given, in every case."""
    meta: dict[str, Any] = json.loads(str(np.load(path)["meta"]))
    found = recognise({key: tuple(shape) for key, shape in meta["state_dict"].items()})
    assert found is not None
    common = found.network.keys() & meta["config"].keys()
    assert len(common) >= 7
    assert {key: found.network[key] for key in common} == {k: meta["config"][k] for k in common}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_what_is_inferred_builds_the_network(name: str) -> None:
    """All but what shapes cannot show has a default; keys and shapes come out again."""
    import torch

    shapes = full_size_shapes(name)
    found = recognise(shapes)
    assert found is not None
    with torch.device("meta"):
        network = MODELS[found.family].build(found.network)
    assert {key: tuple(t.shape) for key, t in network.state_dict().items()} == shapes


def test_families_are_the_registrys() -> None:
    assert FAMILIES.keys() == MODELS.keys()


def diffusers_spelling(key: str) -> str:
    """PixelGen's export as its author's JiT export spells keys (fact sheet, 6.2)."""
    key = re.sub(r"^(blocks\.\d+\.adaLN_modulation)\.1\.", r"\1.", key)
    key = key.replace("final_layer.norm_final.", "norm_final.")
    key = key.replace("final_layer.linear.", "linear_final.")
    return key.replace("final_layer.adaLN_modulation.1.", "adaLN_modulation_final.")


def test_the_other_spelling_of_pixelgen() -> None:
    shapes = full_size_shapes("pixelgen/keys_pixelgen_xl_16_256")
    layout = FAMILIES["pixelgen-class"]
    respelled = {diffusers_spelling(key): shape for key, shape in shapes.items()}
    assert len(respelled.keys() - shapes.keys()) == 2 * 28 + 5
    assert {layout.to_upstream(key): shape for key, shape in respelled.items()} == shapes
    assert {layout.to_upstream(key): shape for key, shape in shapes.items()} == shapes
    assert recognise(respelled) == recognise(shapes)


def test_unreleased_variants_are_told() -> None:
    """Post-modulation of PixelDiT; the fork of PixNerd with another decoder."""
    shapes = full_size_shapes("pixeldit/keys_pixeldit_xl_16")
    for i in range(4):
        shapes[f"pixel_blocks.{i}.adaLN_modulation.0.weight"] = (16384, 1152)
    assert "post-modulation" in recognise(shapes).note
    fork = full_size_shapes("pixnerd/keys_c2i_xl_256")
    fork = {key: shape for key, shape in fork.items() if "param_generator" not in key}
    fork |= {"patch_condition_head.weight": (1, 1), "decoder_blocks.0.norm.weight": (1,)}
    assert "fork" in recognise(fork).note


def test_unknown_state_dicts_are_not_recognised() -> None:
    """Nor are public networks that share layers with the families: DDT, DiT and LightningDiT."""
    assert recognise({}) is None
    assert recognise({"conv.weight": (3, 3)}) is None
    shared = {
        "y_embedder.embedding_table.weight": (1001, 1152),
        "blocks.0.attn.qkv.weight": (3456, 1152),
        "final_layer.adaLN_modulation.1.weight": (2304, 1152),
    }
    assert recognise({**shared, "s_embedder.proj.weight": (1152, 768)}) is None
    assert recognise({**shared, "pos_embed": (1, 256, 1152)}) is None
    light = {"pos_embed": (1, 256, 1152), "blocks.0.mlp.w12.weight": (6144, 1152)}
    assert recognise({**shared, **light, "x_embedder.proj.weight": (1152, 32, 1, 1)}) is None


def digits_shapes() -> dict[str, tuple[int, ...]]:
    preset = load_spec(ModelPreset, "pixnerd-digits")
    with safe_open(preset.path.parent / str(preset.weights.file), framework="pt") as opened:
        return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118


def of_first_blocks(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Keys without those of all blocks but the first, which have the same names."""
    return [key for key in shapes if re.search(r"\.[1-9]\d*\.", key) is None]


@pytest.mark.parametrize("name", [*FULL_SIZE, "digits"])
def test_a_family_is_known_by_what_is_left_without_any_one_tensor(name: str) -> None:
    """No size that is told is another than the whole network's, and few are not told."""
    shapes = digits_shapes() if name == "digits" else full_size_shapes(name)
    whole = recognise(shapes)
    assert whole is not None
    for key in shapes if name == "digits" else of_first_blocks(shapes):
        found = recognise({other: shape for other, shape in shapes.items() if other != key})
        assert found is not None, key
        assert found.family == whole.family, key
        assert found.network.items() <= whole.network.items() or key in CHANGING, key
        assert len(found.network) >= len(whole.network) - 4, key


CHANGING = {"in_context_posemb", "x_embedder.proj2.weight"}
"""Tensors that a network of other arguments has not."""


@pytest.mark.parametrize("shape", [(), (7,), (7, 7), (1, 2, 3), (0, 0), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("name", FULL_SIZE)
def test_tensors_of_any_rank_are_recognised(name: str, shape: tuple[int, ...]) -> None:
    shapes = full_size_shapes(name)
    whole = recognise(shapes)
    assert whole is not None
    for key in of_first_blocks(shapes):
        found = recognise({**shapes, key: shape})
        assert found is not None, key
        assert found.family == whole.family, key


def test_numbers_of_layers_may_be_of_any_length() -> None:
    """int() refuses more than 4,300 digits."""
    shapes = full_size_shapes("pixnerd/keys_c2i_xl_256")
    stray = {f"blocks.{'9' * 5000}.attn.qkv.weight": (3, 3)}
    assert recognise({**shapes, **stray}) == recognise(shapes)


PRESETS: dict[str, Any] = {
    "xl": ("pixnerd-class", {"hidden_size": 1152, "num_blocks": 30, "base": 1}),
    "l": ("pixnerd-class", {"hidden_size": 1024, "num_blocks": 24}),
    "other": ("pixeldit-class", {"hidden_size": 1024, "num_blocks": 24}),
}


def test_nearest_presets() -> None:
    """All that agree in every size that both know; else the one that agrees most; of the family."""
    sizes: dict[str, Any] = {"hidden_size": 1024, "num_blocks": 24}
    found = Recognised("pixnerd-class", sizes)
    assert nearest_presets(found, PRESETS) == (("l",), True)
    twin = {**PRESETS, "l-512": PRESETS["l"]}
    assert nearest_presets(found, twin) == (("l", "l-512"), True)
    assert describe(found, twin).endswith("(l or l-512)")
    near = Recognised("pixnerd-class", {"hidden_size": 1152, "num_blocks": 12})
    assert nearest_presets(near, PRESETS) == (("xl",), False)
    assert "nearest preset: xl" in describe(near, PRESETS)
    assert nearest_presets(Recognised("pixelgen-text", sizes), PRESETS) == ((), False)
    assert not nearest_presets(found._replace(note="with another decoder"), PRESETS).exact


@pytest.mark.parametrize(("name", "value"), [("num_blocks", 10**9), ("hidden_size", 10**11)])
def test_sizes_beyond_any_network_are_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^network\.{name} is out of range: it must be at most"):
        on_meta(network={**NETWORK, name: value})
