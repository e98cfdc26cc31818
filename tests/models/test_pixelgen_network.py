"""PixelGen's and JiT's networks: full-size keys and cost, what they refuse, and their dtypes.

CPU autocast casts linear, convolution, matmul and attention to bfloat16 as CUDA autocast does.
Layer norm is on CUDA's float32 list alone, so the network casts for itself before it; the norms by
root mean square and the rotation compute in float32 by themselves on both.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from evalsuite.errors import ConfigError
from evalsuite.models.pixelgen.class_conditional import (
    JiTClassConditional,
    JiTClassConfig,
    attend_with_float32_scores,
    leave_context_unrotated,
    rotary_table_of_grid,
)
from evalsuite.models.pixelgen.text_conditional import (
    PixelGenTextConditional,
    PixelGenTextConfig,
)
from evalsuite.models.registry import MODELS

KEYS = Path(__file__).parents[1] / "golden" / "cases" / "pixelgen"

LARGE: dict[str, Any] = {
    "input_size": 256,
    "patch_size": 16,
    "hidden_size": 1024,
    "depth": 24,
    "num_heads": 16,
    "num_classes": 1000,
    "in_context_start": 8,
}
XL = {**LARGE, "hidden_size": 1152, "depth": 28, "use_bottleneck": False}
JIT_B = {**LARGE, "hidden_size": 768, "depth": 12, "num_heads": 12, "in_context_start": 4}
JIT_H = {**LARGE, "hidden_size": 1280, "depth": 32, "bottleneck_dim": 256, "in_context_start": 10}
TEXT: dict[str, Any] = {
    "input_size": 512,
    "patch_size": 16,
    "hidden_size": 1536,
    "num_groups": 24,
    "num_blocks": 16,
    "num_text_blocks": 4,
    "txt_embed_dim": 2048,
    "txt_max_length": 128,
}
SMALL_CLASS: dict[str, Any] = {
    "input_size": 16,
    "patch_size": 4,
    "hidden_size": 64,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 10,
    "bottleneck_dim": 24,
    "in_context_len": 3,
    "in_context_start": 2,
}
SMALL_TEXT: dict[str, Any] = {
    "input_size": 16,
    "patch_size": 4,
    "hidden_size": 64,
    "num_groups": 4,
    "num_blocks": 2,
    "num_text_blocks": 2,
    "txt_embed_dim": 24,
    "txt_max_length": 5,
    "bottleneck_dim": 24,
}
F32, BF16 = torch.float32, torch.bfloat16
BF16_RMS = 0.02  # outputs of unit variance; measured: 0.0061 to 0.0072 over networks and seeds


def on_meta(network: type[nn.Module], config: object) -> nn.Module:
    """A full-size network without memory."""
    with torch.device("meta"):
        return network(config)


def class_inputs(config: JiTClassConfig, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, times and labels; the last label is the null class."""
    side = config.input_size
    x = torch.randn(batch, config.in_channels, side, side)
    labels = torch.arange(config.num_classes + 1 - batch, config.num_classes + 1)
    return x, torch.linspace(0.1, 0.9, batch), labels


def text_inputs(config: PixelGenTextConfig, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, times and bfloat16 features, as upstream's text encoder hands them over."""
    x = torch.randn(batch, config.in_channels, config.input_size, config.input_size)
    text = torch.randn(batch, config.txt_max_length, config.txt_embed_dim)
    return x, torch.linspace(0.1, 0.9, batch), text.to(BF16)


def with_random_weights(network: nn.Module, seed: int) -> nn.Module:
    """Weights of variance 1 / fan-in, so that every layer matters; norms near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name == "pos_embed":
            continue
        if tensor.ndim > 1:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(0.1 * noise + float("norm" in name))
    return network.eval().requires_grad_(False)


def small_class_network(seed: int, **changes: Any) -> JiTClassConditional:
    """A class-conditional network with random weights."""
    network = JiTClassConditional(JiTClassConfig(**SMALL_CLASS | changes))
    with_random_weights(network, seed)
    return network


def small_text_network(seed: int) -> PixelGenTextConditional:
    """A text-conditional network with random weights."""
    network = PixelGenTextConditional(PixelGenTextConfig(**SMALL_TEXT))
    with_random_weights(network, seed)
    return network


def dtypes_seen(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, torch.dtype]:
    """Of every submodule's output, and of the final Linear's input, under bfloat16 autocast."""
    seen: dict[str, torch.dtype] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.update({name: out.dtype})
        )
    network.final_layer.linear.register_forward_pre_hook(
        lambda _module, inputs: seen.update({"into final_layer.linear": inputs[0].dtype})
    )
    with torch.autocast("cpu", dtype=BF16):
        network(*inputs)
    return seen


def bf16_error(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Root mean square of autocast's error, relative to the output."""
    x, t, condition = inputs
    exact = network(x, t, condition.float() if condition.is_floating_point() else condition)
    with torch.autocast("cpu", dtype=BF16):
        rounded = network(*inputs).float()
    return float((rounded - exact).square().mean().sqrt() / exact.std())


@pytest.mark.parametrize(("name", "sizes"), [("xl_16_256", XL), ("l_16_256", LARGE)])
def test_class_conditional_keys_and_shapes_are_upstreams(name: str, sizes: dict[str, Any]) -> None:
    """Of the full-size models, so released checkpoints will load; JiT-L/16 has the keys of L."""
    golden = json.loads((KEYS / f"keys_pixelgen_{name}.json").read_text(encoding="utf-8"))
    built = on_meta(JiTClassConditional, JiTClassConfig(**sizes))
    assert {key: list(value.shape) for key, value in built.state_dict().items()} == golden


@pytest.mark.parametrize(
    ("name", "input_size"), [("xxl_16_512_t2i", 512), ("xxl_16_256_t2i_pretrain", 256)]
)
def test_text_conditional_keys_and_shapes_are_upstreams(name: str, input_size: int) -> None:
    """Of the full-size models, so released checkpoints will load."""
    golden = json.loads((KEYS / f"keys_pixelgen_{name}.json").read_text(encoding="utf-8"))
    config = PixelGenTextConfig(**TEXT | {"input_size": input_size})
    built = on_meta(PixelGenTextConditional, config)
    assert {key: list(value.shape) for key, value in built.state_dict().items()} == golden


@pytest.mark.parametrize(
    ("sizes", "tensors", "values", "trainable"),
    [
        (JIT_B, 183, 131_320_320, 131_123_712),
        (LARGE, 351, 459_139_808, 458_877_664),
        (JIT_H, 463, 952_842_048, 952_514_368),
        (XL, 406, 676_994_112, 676_699_200),
    ],
    ids=["jit-b", "jit-l", "jit-h", "pixelgen-xl"],
)
def test_class_conditional_sizes_are_published(
    sizes: dict[str, Any], tensors: int, values: int, trainable: int
) -> None:
    """131M, 459M, 953M and 676M, counted on the original classes; pos_embed is not trained."""
    network = on_meta(JiTClassConditional, JiTClassConfig(**sizes))
    state = network.state_dict()
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (tensors, values)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize(
    ("sizes", "float32_scores", "flops"),
    [
        (JIT_B, True, 50_445_680_640),
        (LARGE, True, 175_888_662_528),
        (LARGE, False, 175_888_662_528),
        (JIT_H, True, 363_891_818_496),
        (XL, False, 260_109_139_968),
    ],
    ids=["jit-b", "jit-l", "pixelgen-l", "jit-h", "pixelgen-xl"],
)
def test_cost_of_one_class_conditional_forward(
    sizes: dict[str, Any], float32_scores: bool, flops: int
) -> None:
    """Twice the multiply-adds of one image, whichever kernel computes the attention."""
    config = JiTClassConfig(**sizes, float32_scores=float32_scores)
    network = on_meta(JiTClassConditional, config)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network(*class_inputs(config, 1))
    assert counter.get_total_flops() == flops


@pytest.mark.parametrize(
    ("input_size", "flops"), [(512, 1_416_300_331_008), (256, 379_569_045_504)]
)
def test_cost_of_one_text_conditional_forward(input_size: int, flops: int) -> None:
    """Twice the multiply-adds of one image, the text-refining blocks included."""
    config = PixelGenTextConfig(**TEXT | {"input_size": input_size})
    network = on_meta(PixelGenTextConditional, config)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network(*text_inputs(config, 1))
    assert counter.get_total_flops() == flops


@pytest.mark.parametrize("ratio", [10**400, 1e308, float("inf")])
def test_a_ratio_without_a_width_is_one_line(ratio: float) -> None:
    """A whole number may be too large for a fraction, and a width for a whole number."""
    with pytest.raises(ConfigError, match="network"):
        MODELS["pixelgen-class"].config({**XL, "mlp_ratio": ratio})


@pytest.mark.parametrize("size", [(16, 20), (20, 16), (32, 32), (15, 15), (8, 32)])
def test_other_sizes_than_the_weights_are_refused(size: tuple[int, int]) -> None:
    """The stored pos_embed fixes the size, and a grid of as many tokens is no exception."""
    x, t = torch.zeros(1, 3, *size), torch.zeros(1)
    with pytest.raises(ValueError, match=f"size {size[0]}x{size[1]} is not the 16x16"):
        small_class_network(0)(x, t, torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match=f"size {size[0]}x{size[1]} is not the 16x16"):
        small_text_network(0)(x, t, torch.zeros(1, 5, 24))


@pytest.mark.parametrize("shape", [(1, 4, 24), (1, 5, 23)])
def test_other_text_than_the_weights_have_is_refused(shape: tuple[int, int, int]) -> None:
    """The number of text tokens and the width of their features are fixed."""
    with pytest.raises(ValueError, match=r"text features are .*, not \(5, 24\)"):
        small_text_network(0)(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"input_size": 18}, "multiple of patch_size"),
        ({"num_heads": 5}, "multiple of num_heads"),
        ({"num_heads": 32}, "multiple of 4"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"patch_size": -4}, "patch_size must be at least 1"),
        ({"bottleneck_dim": 0}, "bottleneck_dim must be at least 1"),
        ({"in_context_len": -1}, "in_context_len must be at least 0"),
        ({"in_context_start": -1}, "in_context_start must be at least 0"),
        ({"in_context_start": 4}, "in_context_start must lie"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
    ],
    ids=str,
)
def test_class_conditional_networks_that_cannot_be_built(
    changes: dict[str, Any], text: str
) -> None:
    """One line that names the size."""
    with pytest.raises(ValueError, match=text):
        JiTClassConfig(**SMALL_CLASS | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"input_size": 18}, "multiple of patch_size"),
        ({"num_groups": 5}, "multiple of num_groups"),
        ({"num_groups": 32}, "multiple of 4"),
        ({"num_text_blocks": 0}, "num_text_blocks must be at least 1"),
        ({"txt_max_length": 0}, "txt_max_length must be at least 1"),
    ],
    ids=str,
)
def test_text_conditional_networks_that_cannot_be_built(changes: dict[str, Any], text: str) -> None:
    """One line that names the size."""
    with pytest.raises(ValueError, match=text):
        PixelGenTextConfig(**SMALL_TEXT | changes)


def test_context_tokens_may_start_at_the_first_block_or_be_absent() -> None:
    """Without them there is no parameter for them, and their start is of no account."""
    first = small_class_network(0, in_context_start=0)
    absent = small_class_network(0, in_context_len=0, in_context_start=9)
    for network in (first, absent):
        assert network(*class_inputs(network.config, 2)).shape == (2, 3, 16, 16)
    assert "in_context_posemb" in first.state_dict()
    assert "in_context_posemb" not in absent.state_dict()


def test_the_class_after_the_null_class_does_not_exist() -> None:
    """Labels run to num_classes, which is the null class."""
    network = small_class_network(0)
    with pytest.raises(IndexError):
        network(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.tensor([11]))


def test_context_tokens_are_not_rotated_and_image_tokens_keep_their_angles() -> None:
    """Angles 0 are put before the table; the first image token of a grid has angle 0 too."""
    cos, sin = rotary_table_of_grid(16, 3, torch.device("cpu"))
    with_context = leave_context_unrotated((cos, sin), 2)
    assert torch.equal(with_context[0], torch.cat((torch.ones(2, 8), cos)))
    assert torch.equal(with_context[1], torch.cat((torch.zeros(2, 8), sin)))
    assert not sin[0].any()
    assert torch.equal(sin[1::3, 4:], sin[1, 4:].expand(3, 4)), "columns are in the last half"
    assert torch.equal(sin[3:6, :4], sin[3, :4].expand(3, 4)), "rows are in the first half"


@pytest.mark.parametrize("float32_scores", [False, True])
def test_dtypes_of_the_class_conditional_network(float32_scores: bool) -> None:
    """Tokens are bfloat16 until the float32 context tokens join them, and float32 from then on."""
    network = small_class_network(0, float32_scores=float32_scores)
    seen = dtypes_seen(network, class_inputs(network.config, 2))
    expected = {
        "t_embedder": BF16,
        "y_embedder": F32,
        "x_embedder": BF16,
        "blocks.0": BF16,
        "blocks.1": BF16,
        "blocks.2": F32,
        "blocks.3": F32,
        "into final_layer.linear": F32,
        "final_layer": BF16,
        "": BF16,
    }
    for i, stream in enumerate((BF16, BF16, F32, F32)):
        expected |= {f"blocks.{i}.{norm}": stream for norm in ("norm1", "norm2")}
        inner = ("attn", "attn.qkv", "attn.q_norm", "attn.k_norm", "mlp", "adaLN_modulation")
        expected |= {f"blocks.{i}.{name}": BF16 for name in inner}
    assert {name: seen[name] for name in expected} == expected


def test_dtypes_of_the_text_conditional_network() -> None:
    """Text and image tokens are bfloat16 throughout; the last norm gives float32."""
    network = small_text_network(0)
    seen = dtypes_seen(network, text_inputs(network.config, 2))
    assert seen.pop("into final_layer.linear") == F32
    streams = {"t_embedder", "x_embedder", "y_embedder", "blocks.1", "text_refine_blocks.1", ""}
    assert streams <= seen.keys()
    assert set(seen.values()) == {BF16}


def test_float32_features_make_the_refined_text_float32() -> None:
    """As upstream, where the positions are rounded to the features' dtype."""
    network = small_text_network(0)
    x, t, text = text_inputs(network.config, 2)
    seen = dtypes_seen(network, (x, t, text.float()))
    assert (seen["text_refine_blocks.1"], seen["blocks.0"]) == (F32, BF16)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_of_bfloat16(seed: int) -> None:
    """Autocast's error against float32 is that of rounding, three times what was measured."""
    torch.manual_seed(seed)
    for float32_scores in (False, True):
        network = small_class_network(seed, float32_scores=float32_scores)
        assert 0 < bf16_error(network, class_inputs(network.config, 4)) < BF16_RMS
    text = small_text_network(seed)
    assert 0 < bf16_error(text, text_inputs(text.config, 4)) < BF16_RMS


def test_float32_scores_are_not_rounded_under_autocast() -> None:
    """The weights are those of float32 q and k; the fused kernel's are of rounded ones."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 7, 8)
    v = torch.randn(2, 3, 7, 8, dtype=BF16)
    weights = (q @ k.mT / 8**0.5).softmax(-1)
    expected = (weights.to(BF16) @ v).transpose(1, 2).flatten(2)
    with torch.autocast("cpu", dtype=BF16):
        ours = attend_with_float32_scores(q, k, v)
        fused = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert ours.dtype == fused.dtype == BF16
    assert float((ours - expected).abs().max()) <= 2**-7, "one unit in the last place of 1"
    exact = (weights @ v.float()).transpose(1, 2).flatten(2)
    assert float((ours - exact).square().mean()) < float((fused - exact).square().mean())
