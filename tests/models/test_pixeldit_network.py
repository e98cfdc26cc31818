"""PixelDiT's networks: full-size keys, parameters and FLOPs, what they refuse, and dtypes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dtype_flow import BF16, FP32, autocast_flow, bf16_error, count_flops, randomise
from torch import Tensor

from evalsuite.models.pixeldit.class_conditional import (
    PixelDiTClassConditional,
    PixelDiTClassConfig,
)
from evalsuite.models.pixeldit.text_conditional import PixelDiTTextConditional, PixelDiTTextConfig

KEYS = Path(__file__).parents[1] / "golden" / "cases" / "pixeldit"
XL = PixelDiTClassConfig(
    hidden_size=1152,
    num_groups=16,
    patch_depth=26,
    pixel_depth=4,
    pixel_hidden_size=16,
    patch_size=16,
    num_classes=1000,
)
TEXT_1300M = PixelDiTTextConfig(
    hidden_size=1536,
    num_groups=24,
    patch_depth=14,
    pixel_depth=2,
    pixel_hidden_size=16,
    pixel_attn_hidden_size=1152,
    pixel_num_groups=16,
    patch_size=16,
    txt_embed_dim=2304,
    txt_max_length=300,
)
SMALL = dataclasses.replace(
    XL,
    hidden_size=64,
    num_groups=4,
    patch_depth=3,
    pixel_depth=2,
    pixel_hidden_size=8,
    patch_size=4,
    num_classes=10,
)
SMALL_TEXT = dataclasses.replace(
    TEXT_1300M,
    hidden_size=64,
    num_groups=4,
    patch_depth=3,
    pixel_hidden_size=8,
    pixel_attn_hidden_size=48,
    pixel_num_groups=3,
    patch_size=4,
    txt_embed_dim=24,
    txt_max_length=6,
)
BF16_ERROR = 0.027  # three times the 0.0090 measured of the text network, 0.0086 of the other


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def class_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Two images of 16x24, one for a class and one for the null class."""
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.3, 0.85]), torch.tensor([3, 10])


def text_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Two images of 16x24 in upstream's time, with text features."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 16, 24, generator=generator)
    return x, torch.tensor([300.0, 850.0]), torch.randn(2, 6, 24, generator=generator)


def shapes_in(name: str) -> dict[str, list[int]]:
    """Upstream's keys and shapes."""
    shapes: dict[str, list[int]] = json.loads((KEYS / name).read_text(encoding="utf-8"))
    return shapes


def test_class_keys_shapes_and_flops_are_upstreams() -> None:
    """Of the full-size network, on the meta device."""
    with torch.device("meta"):
        network = PixelDiTClassConditional(XL)
        label = torch.zeros(1, dtype=torch.long)
    state = network.state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == shapes_in("keys_pixeldit_xl_16.json")
    assert sum(value.numel() for value in state.values()) == 797_383_203
    assert count_flops(network, (256, 256), label) == 311_194_255_360
    assert count_flops(network, (512, 512), label) == 1_352_241_479_680


def test_text_keys_shapes_and_flops_are_upstreams() -> None:
    """Of the full-size network, on the meta device."""
    with torch.device("meta"):
        network = PixelDiTTextConditional(TEXT_1300M)
        text = torch.zeros(1, 300, 2304)
    state, golden = network.state_dict(), shapes_in("keys_pixeldit_t2i_1300m.json")
    assert {k: list(v.shape) for k, v in state.items()} == golden
    assert sum(value.numel() for value in state.values()) == 1_302_470_787
    assert count_flops(network, (512, 512), text) == 1_432_565_645_312
    assert count_flops(network, (1024, 1024), text) == 6_183_118_241_792


def test_post_modulated_weights_do_not_load() -> None:
    """A later upstream variant has two thirds of the rows; it is another architecture."""
    with torch.device("meta"):
        network = PixelDiTClassConditional(XL)
        state = network.state_dict()
        state["pixel_blocks.0.adaLN_modulation.0.weight"] = torch.zeros(16384, 1152)
    with pytest.raises(RuntimeError, match=r"pixel_blocks\.0\.adaLN_modulation\.0\.weight"):
        network.load_state_dict(state)


@pytest.mark.parametrize("size", [(18, 16), (16, 15), (2, 2)])
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(size: tuple[int, int]) -> None:
    """By both networks, before any arithmetic."""
    x, match = torch.zeros(1, 3, *size), f"size {size[0]}x{size[1]} is not a multiple"
    with pytest.raises(ValueError, match=match):
        PixelDiTClassConditional(SMALL)(x, torch.zeros(1), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match=match):
        PixelDiTTextConditional(SMALL_TEXT)(x, torch.zeros(1), torch.zeros(1, 6, 24))


def test_text_may_be_shorter_but_not_longer_than_the_table() -> None:
    """Positions are those of the first tokens; nothing is cut silently."""
    network = randomise(PixelDiTTextConditional(SMALL_TEXT))
    x, t, text = text_inputs()
    assert network(x, t, text[:, :4]).shape == x.shape
    with pytest.raises(ValueError, match="7 text tokens, more than 6"):
        network(x, t, torch.zeros(2, 7, 24))


@pytest.mark.parametrize(
    ("config", "changes", "text"),
    [
        (SMALL, {"num_groups": 5}, "hidden_size must be a multiple of num_groups"),
        (SMALL, {"num_groups": 32}, "multiple of 4"),
        (SMALL, {"pixel_hidden_size": 6}, "pixel_hidden_size must be a multiple of 4"),
        (SMALL, {"pixel_depth": 0}, "pixel_depth must be at least 1"),
        (SMALL_TEXT, {"pixel_num_groups": 5}, "pixel_attn_hidden_size must be a multiple"),
        (SMALL_TEXT, {"pixel_num_groups": 8}, "pixel_attn_hidden_size / pixel_num_groups"),
        (SMALL_TEXT, {"txt_max_length": 0}, "txt_max_length must be at least 1"),
    ],
    ids=str,
)
def test_networks_that_cannot_be_built(config: Any, changes: dict[str, int], text: str) -> None:
    """One line that names the field."""
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(config, **changes)


def check_pixel_level(flow: dict[str, Any]) -> None:
    """The pixel stream is float32 throughout, its branches and the output bfloat16."""
    for name in ("pixel_embedder", "pixel_blocks.0", "pixel_blocks.1", "final_layer.norm"):
        assert flow[name] == FP32, name
    assert flow["pixel_embedder.proj"] == BF16
    for name in ("adaLN_modulation", "compress_to_attn", "attn", "expand_from_attn", "mlp"):
        assert flow[f"pixel_blocks.0.{name}"] == BF16, name
    assert flow["pixel_blocks.0.in"] == (FP32, BF16)  # pixels, and what generates modulations
    assert flow["pixel_blocks.0.mlp.in"] == (FP32,)
    assert set(flow["attention"]) == {(BF16, BF16, BF16)}
    assert flow["out"] == BF16


def test_class_dtypes_under_autocast() -> None:
    """Condition float32, patch stream bfloat16, norms float32 from its weights on."""
    flow = autocast_flow(randomise(PixelDiTClassConditional(SMALL)), *class_inputs())
    assert (flow["t_embedder.in"], flow["t_embedder"]) == ((FP32,), BF16)
    assert flow["y_embedder"] == FP32
    assert flow["s_embedder"] == BF16
    for i in range(SMALL.patch_depth):
        block = f"patch_blocks.{i}"
        assert flow[f"{block}.in"] == (BF16, FP32)  # tokens, condition
        assert flow[f"{block}.adaLN_modulation"] == BF16
        for norm in ("norm1", "norm2", "attn.q_norm", "attn.k_norm"):
            assert (flow[f"{block}.{norm}.in"], flow[f"{block}.{norm}"]) == ((BF16,), FP32)
        assert flow[block] == BF16
    check_pixel_level(flow)


def test_text_dtypes_under_autocast() -> None:
    """Image tokens bfloat16, text tokens float32 (their norm's and positions' dtype)."""
    flow = autocast_flow(randomise(PixelDiTTextConditional(SMALL_TEXT)), *text_inputs())
    assert (flow["t_embedder.in"], flow["t_embedder"]) == ((FP32,), BF16)
    assert (flow["y_embedder.norm.in"], flow["y_embedder"]) == ((BF16,), FP32)
    for i in range(SMALL_TEXT.patch_depth):
        block = f"patch_blocks.{i}"
        assert flow[f"{block}.in"][:3] == (BF16, FP32, BF16)  # image, text, condition
        assert flow[f"{block}.attn"] == (BF16, BF16)
        assert flow[block] == (BF16, FP32)
    check_pixel_level(flow)


def test_bfloat16_error_is_bounded() -> None:
    """Relative to float32, of both networks at random weights of a trained network's size."""
    assert bf16_error(randomise(PixelDiTClassConditional(SMALL)), *class_inputs()) < BF16_ERROR
    assert bf16_error(randomise(PixelDiTTextConditional(SMALL_TEXT)), *text_inputs()) < BF16_ERROR
