"""PixelGen's goldens: forwards, intermediates and position codes of upstream.

The tolerance is that of the goldens' README: an independent float32 implementation reaches 4e-6,
and the smallest single mistake moves the outputs by 6e-4.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evalsuite.models.pixelgen.class_conditional import JiTClassConditional, JiTClassConfig
from evalsuite.models.pixelgen.layers import sincos_position_code
from evalsuite.models.pixelgen.text_conditional import (
    PixelGenTextConditional,
    PixelGenTextConfig,
)

FORWARD = 5e-5
TRAINING_ONLY = {"attn_drop", "proj_drop", "weight_path", "load_ema"}


def sizes_of(meta: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments, without those that act in training alone."""
    return {key: value for key, value in meta["config"].items() if key not in TRAINING_ONLY}


def filled(network: nn.Module, meta: dict[str, Any], fill: ModuleType) -> nn.Module:
    """The network of a case, every tensor filled by its upstream name."""
    state = fill.state_dict_for(meta["state_dict"], meta["salt"])
    if meta.get("pos_embed") == "sincos":
        state["pos_embed"] = network.state_dict()["pos_embed"].clone()
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def close(actual: Tensor, expected: NDArray[Any]) -> None:
    """Largest absolute difference within the tolerance, with equal shapes."""
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=FORWARD)


def check_forwards(network: nn.Module, case: Any) -> None:
    """Every stored forward, and the outputs of submodules that were stored of the first."""
    z, debug = case.arrays(), case.debug()
    seen: dict[str, Tensor] = {}

    modules = {name.replace(".", "_"): module for name, module in network.named_modules()}
    for name in debug:
        modules[name].register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.update(
                {name: out[0] if isinstance(out, tuple) else out}
            )
        )
    for j in reversed(range(case.meta["num_forward"])):
        x, t, y = (torch.from_numpy(z[f"fwd{j}_{part}"]) for part in "xty")
        close(network(x, t, y), z[f"fwd{j}_out"])
    assert seen.keys() == debug.keys()
    for name, expected in debug.items():
        close(seen[name], expected)


def check_position_code(meta: dict[str, Any], z: dict[str, NDArray[Any]]) -> None:
    """The constructor's parameter is upstream's, where a case stores it."""
    assert ("pos_embed" in z) == (meta.get("pos_embed") == "sincos")
    if "pos_embed" in z:
        config = meta["config"]
        grid_size = config["input_size"] // config["patch_size"]
        close(sincos_position_code(config["hidden_size"], grid_size), z["pos_embed"])


def test_the_folder_of_pixelgen_has_cases(
    goldens: Any, are_own_cases: bool, cases_of: Callable[[str], list[Any]]
) -> None:
    """A missing or empty family is a failure, not a silence."""
    assert (goldens / "pixelgen").is_dir(), f"{goldens}/pixelgen does not exist"
    kinds = {case.kind for case in cases_of("pixelgen")}
    assert kinds, f"{goldens}/pixelgen holds no case"
    assert kinds <= {"c2i", "t2i"}, "a kind without a test"
    assert not are_own_cases or kinds == {"c2i", "t2i"}


def test_class_conditional_forward(pixelgen_c2i_case: Any, fill: ModuleType) -> None:
    """The predicted image and what hooks see on the way."""
    network = JiTClassConditional(JiTClassConfig(**sizes_of(pixelgen_c2i_case.meta)))
    check_forwards(filled(network, pixelgen_c2i_case.meta, fill), pixelgen_c2i_case)


def test_class_conditional_forward_with_float32_scores(
    pixelgen_c2i_case: Any, fill: ModuleType
) -> None:
    """JiT's form of attention is the same function in float32."""
    config = JiTClassConfig(**sizes_of(pixelgen_c2i_case.meta), float32_scores=True)
    network = JiTClassConditional(config)
    check_forwards(filled(network, pixelgen_c2i_case.meta, fill), pixelgen_c2i_case)


def test_text_conditional_forward(pixelgen_t2i_case: Any, fill: ModuleType) -> None:
    """The predicted image and what hooks see on the way."""
    network = PixelGenTextConditional(PixelGenTextConfig(**sizes_of(pixelgen_t2i_case.meta)))
    check_forwards(filled(network, pixelgen_t2i_case.meta, fill), pixelgen_t2i_case)


def test_class_conditional_position_code(pixelgen_c2i_case: Any) -> None:
    """What the constructor stores."""
    check_position_code(pixelgen_c2i_case.meta, pixelgen_c2i_case.arrays())


def test_text_conditional_position_code(pixelgen_t2i_case: Any) -> None:
    """What the constructor stores."""
    check_position_code(pixelgen_t2i_case.meta, pixelgen_t2i_case.arrays())
