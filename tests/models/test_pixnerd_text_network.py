"""PixNerd's text-conditional network: full-size keys and FLOPs, patch geometry, and dtypes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from dtype_flow import BF16, FP32, autocast_flow, bf16_error, count_flops, randomise
from torch import Tensor

from evalsuite.models.pixnerd.text_conditional import (
    PatchGeometry,
    PixNerdTextConditional,
    PixNerdTextConfig,
    patch_geometry,
)

KEYS = Path(__file__).parents[1] / "golden" / "cases" / "pixnerd"
XXL = PixNerdTextConfig(
    hidden_size=1536,
    num_groups=24,
    num_encoder_blocks=16,
    num_decoder_blocks=2,
    num_text_blocks=4,
    decoder_hidden_size=64,
    patch_size=16,
    txt_embed_dim=2048,
    txt_max_length=128,
)
SMALL = dataclasses.replace(
    XXL,
    hidden_size=64,
    num_groups=4,
    num_encoder_blocks=3,
    num_decoder_blocks=1,
    num_text_blocks=2,
    decoder_hidden_size=16,
    patch_size=4,
    txt_embed_dim=24,
    txt_max_length=6,
)
BF16_ERROR = 0.035  # three times the 0.0116 measured


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def inputs(size: tuple[int, int] = (16, 24)) -> tuple[Tensor, Tensor, Tensor]:
    """Two images with text features, float32."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *size, generator=generator)
    return x, torch.tensor([0.3, 0.85]), torch.randn(2, 6, 24, generator=generator)


def test_keys_shapes_and_flops_are_upstreams() -> None:
    """Of the full-size network, on the meta device; the FLOPs to the GFLOP's third digit."""
    golden = json.loads((KEYS / "keys_t2i_xxl_heavydecoder.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        network = PixNerdTextConditional(XXL)
        text = torch.zeros(1, 128, 2048)
    state = network.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == golden
    assert sum(value.numel() for value in state.values()) == 1_171_518_019
    gflop = [count_flops(network, (side, side), text) / 1e9 for side in (256, 512)]
    assert gflop == pytest.approx([409.919, 1537.700], abs=5e-4)


def test_a_base_size_keeps_the_number_of_tokens() -> None:
    """At 256 pixels the encoder still computes 1,024 tokens; only the pixels become fewer."""
    with torch.device("meta"):
        network = PixNerdTextConditional(dataclasses.replace(XXL, base_size=512))
        text = torch.zeros(1, 128, 2048)
    small, base = (count_flops(network, (side, side), text) for side in (256, 512))
    pixel_flops = 2 * 512**2 * (67 * 64 + 2 * 2 * 2 * 64 * 64 + 64 * 3)
    assert base - small == pixel_flops * 3 // 4


def test_patch_geometry_rounds_down_as_upstream() -> None:
    """The demonstration's sizes, scaled to a 512-pixel view, and no scaling."""
    assert patch_geometry((768, 320), 16, (1.5, 0.625)) == PatchGeometry((512, 512), (24, 10))
    assert patch_geometry((256, 512), 16, (1.0, 1.0)) == PatchGeometry((256, 512), (16, 16))


@pytest.mark.parametrize(
    ("size", "scaling"),
    [
        ((18, 16), (1.0, 1.0)),
        ((16, 15), (1.0, 1.0)),
        ((2, 2), (1.0, 1.0)),
        ((16, 16), (0.1, 1.0)),  # a patch of no pixels
        ((16, 16), (1.3, 1.0)),  # 12 pixels seen for 16, three patches of five
    ],
)
def test_sizes_and_scalings_that_leave_a_rest_are_refused(
    size: tuple[int, int], scaling: tuple[float, float]
) -> None:
    """Upstream would drop pixels or fail in the fold."""
    x, t, text = inputs(size)
    with pytest.raises(ValueError, match=f"size {size[0]}x{size[1]} .* is not a multiple"):
        PixNerdTextConditional(SMALL)(x, t, text, scaling)


def test_a_scaling_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        patch_geometry((16, 16), 4, (0.0, 1.0))


def test_images_of_any_multiple_of_the_base_grid() -> None:
    """Base 16 in patches of 4 is a grid of 4x4, so sides are multiples of 4, not of 16."""
    config = dataclasses.replace(SMALL, base_size=16)
    network = randomise(PixNerdTextConditional(config))
    assert (SMALL.multiple_of, config.multiple_of) == (4, 4)
    assert dataclasses.replace(XXL, base_size=512).multiple_of == 32
    x, t, text = inputs((8, 28))
    out = network(x, t, text)
    assert out.shape == x.shape
    assert torch.equal(out, network(x, t, text, (0.5, 1.75)))
    with pytest.raises(ValueError, match="is not a multiple"):
        network(*inputs((8, 10)))


def test_the_pretraining_variant_differs_only_in_pixel_positions() -> None:
    """At patch 16 not at all; at another patch it is another function."""
    text = inputs()[2]
    for patch, equal in ((16, True), (4, False)):
        config = dataclasses.replace(SMALL, patch_size=patch)
        released = randomise(PixNerdTextConditional(config))
        variant = PixNerdTextConditional(dataclasses.replace(config, pixel_range=patch))
        variant.load_state_dict(released.state_dict())
        x, t, _ = inputs((32, 16))
        assert torch.equal(released(x, t, text), variant(x, t, text)) == equal


@pytest.mark.parametrize("length", [5, 7])
def test_text_of_another_length_is_refused(length: int) -> None:
    x, t, _ = inputs()
    with pytest.raises(ValueError, match=f"{length} text tokens, not 6"):
        PixNerdTextConditional(SMALL)(x, t, torch.zeros(2, length, 24))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_groups": 5}, "hidden_size must be a multiple of num_groups"),
        ({"num_groups": 32}, "multiple of 4"),
        ({"num_text_blocks": 0}, "num_text_blocks must be at least 1"),
        ({"base_size": 18}, "base_size must be a multiple of patch_size"),
        ({"base_size": 0}, "base_size must be at least 1"),
    ],
    ids=str,
)
def test_networks_that_cannot_be_built(changes: dict[str, int], text: str) -> None:
    """One line that names the field."""
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("text_dtype", [BF16, FP32], ids=str)
def test_dtypes_under_autocast(text_dtype: torch.dtype) -> None:
    """All is bfloat16 after the first Linear, but text tokens keep the dtype of their features."""
    network = randomise(PixNerdTextConditional(SMALL))
    x, t, text = inputs()
    flow = autocast_flow(network, x, t, text.to(text_dtype))
    assert (flow["t_embedder.in"], flow["t_embedder"]) == ((FP32,), BF16)
    assert flow["y_embedder"] == BF16
    assert flow["s_embedder"] == BF16
    for i in range(SMALL.num_text_blocks):
        assert flow[f"text_refine_blocks.{i}.in"] == (text_dtype, BF16)  # text, condition
        assert flow[f"text_refine_blocks.{i}"] == text_dtype
    for i in range(SMALL.num_encoder_blocks):
        assert flow[f"blocks.{i}.in"][:3] == (BF16, text_dtype, BF16)  # image, text, condition
        for name in ("norm1", "attn.q_norm", "attn.k_norm", "attn", "norm2", "mlp"):
            assert flow[f"blocks.{i}.{name}"] == BF16, name
        assert flow[f"blocks.{i}"] == BF16
    assert flow["x_embedder.embedder.in"] == (FP32,)  # colours and position codes
    assert flow[f"blocks.{SMALL.num_encoder_blocks}.in"] == (BF16, BF16)
    assert flow[f"blocks.{SMALL.num_encoder_blocks}"] == BF16
    assert set(flow["attention"]) == {(BF16, BF16, BF16)}
    assert flow["bmm"] == [(BF16, FP32), (BF16, BF16)]
    assert flow["out"] == BF16


def test_bfloat16_error_is_bounded() -> None:
    """Relative to float32, at random weights of a trained network's size."""
    assert bf16_error(randomise(PixNerdTextConditional(SMALL)), *inputs()) < BF16_ERROR
