"""PixNerd's class network: full-size keys and FLOPs of upstream, what it refuses, and dtypes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dtype_flow import BF16, FP32, autocast_flow, bf16_error, count_flops, randomise
from torch import Tensor

from evalsuite.errors import ConfigError
from evalsuite.models.pixnerd.class_conditional import PixNerdClassConditional, PixNerdClassConfig
from evalsuite.models.registry import family_named

KEYS = Path(__file__).parents[1] / "golden" / "cases" / "pixnerd"
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_groups": 4,
    "num_blocks": 3,
    "num_cond_blocks": 2,
    "hidden_size_x": 8,
    "nerf_mlpratio": 2,
    "patch_size": 4,
    "num_classes": 10,
}
XL = {**SMALL, "hidden_size": 1152, "num_groups": 16, "num_blocks": 30, "num_cond_blocks": 26}
XL |= {"hidden_size_x": 64, "patch_size": 16, "num_classes": 1000}
LARGE = {**XL, "hidden_size": 1024, "num_blocks": 24, "num_cond_blocks": 22}


@pytest.mark.parametrize(
    ("name", "network"), [("xl_256", XL), ("xl_512", XL), ("large_256", LARGE)]
)
def test_keys_and_shapes_are_upstreams(name: str, network: dict[str, Any]) -> None:
    """Of the full-size models, on the meta device; so released checkpoints will load."""
    golden = json.loads((KEYS / f"keys_c2i_{name}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        built = family_named("pixnerd-class").build(network)
    assert {key: list(value.shape) for key, value in built.state_dict().items()} == golden


def test_flops_are_upstreams() -> None:
    """Of one forward, to the GFLOP's third digit."""
    for network, side, gflop in ((XL, 256, 268.551), (XL, 512, 1167.172), (LARGE, 256, 170.361)):
        with torch.device("meta"):
            built = PixNerdClassConditional(PixNerdClassConfig(**network))
            label = torch.zeros(1, dtype=torch.long)
        assert count_flops(built, (side, side), label) / 1e9 == pytest.approx(gflop, abs=5e-4)


@pytest.mark.parametrize("size", [(18, 16), (16, 15), (2, 2)])
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(size: tuple[int, int]) -> None:
    network = PixNerdClassConditional(PixNerdClassConfig(**SMALL))
    with pytest.raises(ValueError, match=f"size {size[0]}x{size[1]} is not a multiple"):
        network(torch.zeros(1, 3, *size), torch.zeros(1), torch.zeros(1, dtype=torch.long))


def test_oblong_images_and_the_null_class() -> None:
    """Output is shaped as the input; class `num_classes` exists, the one after does not."""
    torch.manual_seed(0)
    network = PixNerdClassConditional(PixNerdClassConfig(**SMALL)).eval()
    x = torch.randn(2, 3, 8, 20)
    out = network(x, torch.tensor([0.0, 1.0]), torch.tensor([0, 10]))
    assert out.shape == x.shape
    assert bool(torch.isfinite(out).all())
    with pytest.raises(IndexError):
        network(x, torch.zeros(2), torch.tensor([0, 11]))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_groups": 5}, "multiple of num_groups"),
        ({"num_groups": 16}, "multiple of 4"),
        ({"num_cond_blocks": 0}, "num_cond_blocks"),
        ({"num_cond_blocks": 4}, "num_cond_blocks"),
        ({"hidden_sise": 32}, "did you mean 'hidden_size'"),
        ({"hidden_size": 32.0}, "network.hidden_size must be a whole number"),
        ({"hidden_size": "32"}, "network.hidden_size must be a whole number"),
        ({"patch_size": True}, "network.patch_size must be a whole number"),
    ],
    ids=str,
)
def test_networks_that_cannot_be_built(changes: dict[str, Any], text: str) -> None:
    """One line that names the key."""
    with pytest.raises(ConfigError) as caught:
        family_named("pixnerd-class").build(SMALL | changes)
    assert text in str(caught.value)


@pytest.mark.parametrize("key", ["hidden_size", "num_groups", "num_blocks", "patch_size"])
@pytest.mark.parametrize("value", [0, -4])
def test_sizes_below_one_are_refused(key: str, value: int) -> None:
    """Not a ZeroDivisionError of the constructor."""
    with pytest.raises(ConfigError):
        family_named("pixnerd-class").build(SMALL | {key: value})


def test_a_network_without_a_key_names_it() -> None:
    network = {key: value for key, value in SMALL.items() if key != "nerf_mlpratio"}
    with pytest.raises(ConfigError, match="lacks nerf_mlpratio"):
        family_named("pixnerd-class").build(network)


def test_an_unknown_family_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pixnerd-class'"):
        family_named("pixnerd-clas")


def test_a_wrong_network_is_refused_where_plans_are_made() -> None:
    """Before a worker starts: `multiple_of` is what plan resolution asks."""
    family = family_named("pixnerd-class")
    assert family.multiple_of(SMALL) == 4
    renamed = {("patch_sise" if key == "patch_size" else key): v for key, v in SMALL.items()}
    for network in (SMALL | {"patch_size": 0}, SMALL | {"hidden_sise": 1}, renamed):
        with pytest.raises(ConfigError):
            family.multiple_of(network)


DEEPER = {**SMALL, "hidden_size": 64, "num_blocks": 4, "num_cond_blocks": 3, "hidden_size_x": 16}
BF16_ERROR = 0.035  # three times the 0.0117 measured


def autocast_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Two images, one for a class and one for the null class."""
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.3, 0.85]), torch.tensor([3, 10])


def test_dtypes_under_autocast() -> None:
    """Condition float32, both streams bfloat16, norms float32 from their weights on."""
    network = randomise(PixNerdClassConditional(PixNerdClassConfig(**DEEPER)))
    flow = autocast_flow(network, *autocast_inputs())
    assert (flow["t_embedder.in"], flow["t_embedder"]) == ((FP32,), BF16)
    assert flow["y_embedder"] == FP32
    assert flow["s_embedder"] == BF16
    for i in range(DEEPER["num_cond_blocks"]):
        assert flow[f"blocks.{i}.in"] == (BF16, FP32)  # tokens, condition
        assert flow[f"blocks.{i}.adaLN_modulation"] == BF16
        for norm in ("norm1", "norm2", "attn.q_norm", "attn.k_norm"):
            assert (flow[f"blocks.{i}.{norm}.in"], flow[f"blocks.{i}.{norm}"]) == ((BF16,), FP32)
        assert flow[f"blocks.{i}"] == BF16
    assert flow["x_embedder.embedder.in"] == (FP32,)  # colours and position codes
    assert flow["blocks.3.in"] == (BF16, BF16)  # pixels, and what generates their matrices
    assert flow["blocks.3.norm"] == FP32
    assert flow["blocks.3"] == BF16
    assert set(flow["attention"]) == {(BF16, BF16, BF16)}
    assert flow["bmm"] == [(FP32, FP32), (BF16, FP32)]
    assert flow["final_layer.norm"] == FP32
    assert flow["out"] == BF16


def test_bfloat16_error_is_bounded() -> None:
    """Relative to float32, at random weights of a trained network's size."""
    network = randomise(PixNerdClassConditional(PixNerdClassConfig(**DEEPER)))
    assert bf16_error(network, *autocast_inputs()) < BF16_ERROR
