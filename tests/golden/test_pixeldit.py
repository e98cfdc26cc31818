"""PixelDiT's goldens: forwards of the original networks and what their submodules put out.

Tolerance of the goldens' README: an independent float32 implementation reaches 4e-6, and the
smallest of 17 deliberate mistakes (tanh for erf in the GELU) moves the output by 6e-4.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evalsuite.models.pixeldit.class_conditional import (
    PixelDiTClassConditional,
    PixelDiTClassConfig,
)
from evalsuite.models.pixeldit.text_conditional import PixelDiTTextConditional, PixelDiTTextConfig

FORWARD = 5e-5
NO_EFFECT = {"num_text_blocks", "repa_encoder_index"}  # the original's network ignores them
PUBLISHED_ONLY = {"use_text_rope": True, "text_rope_theta": 10000.0}


def class_network(meta: dict[str, Any]) -> PixelDiTClassConditional:
    """The class-conditional network of a case, unfilled."""
    return PixelDiTClassConditional(PixelDiTClassConfig(**meta["config"]))


def text_network(meta: dict[str, Any]) -> PixelDiTTextConditional:
    """The text-conditional network of a case, unfilled."""
    config = {key: value for key, value in meta["config"].items() if key not in NO_EFFECT}
    for key, value in PUBLISHED_ONLY.items():
        assert config.pop(key, value) == value, f"only {key} {value} is published"
    return PixelDiTTextConditional(PixelDiTTextConfig(**config))


def filled(network: nn.Module, meta: dict[str, Any], fill: ModuleType) -> nn.Module:
    """The network with every tensor filled by its upstream name, which must be its own."""
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == meta["state_dict"]
    fill.fill_module(network, meta["salt"])
    return network.eval().requires_grad_(False)


def record_outputs(network: nn.Module) -> dict[str, Tensor]:
    """What each submodule puts out, under its name with `_` for `.`; of tuples the first item."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, out: seen.update(
            {name: out[0] if isinstance(out, tuple) else out}
        )

    for name, module in network.named_modules():
        module.register_forward_hook(keep(name.replace(".", "_")))
    return seen


def close(actual: Tensor, expected: NDArray[Any]) -> None:
    """Largest absolute difference within the tolerance, with equal shapes."""
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=FORWARD)


def check_forwards(network: nn.Module, case: Any, fill: ModuleType) -> None:
    """Every forward of the case, and the intermediates of the first where they are stored."""
    meta, z, debug = case.meta, case.arrays(), case.debug()
    filled(network, meta, fill)
    seen = record_outputs(network)
    assert meta["num_forward"] or meta["runs"], "a case of nothing"
    for j in range(meta["num_forward"]):
        x, t, y = (torch.from_numpy(z[f"fwd{j}_{part}"]) for part in "xty")
        label = f"pixeldit/{meta['split']}/{meta['name']}/x{j}"
        assert torch.equal(fill.noise_for(label, tuple(x.shape)), x)
        close(network(x, t, y), z[f"fwd{j}_out"])
        if j == 0:
            for name in debug:
                close(seen[name], debug[name])


def test_the_folder_of_pixeldit_has_cases(
    goldens: Path, are_own_cases: bool, cases_of: Callable[[str], list[Any]]
) -> None:
    """A missing or empty family is a failure, not a silence."""
    assert (goldens / "pixeldit").is_dir(), f"{goldens}/pixeldit does not exist"
    kinds = {case.kind for case in cases_of("pixeldit")}
    assert kinds, f"{goldens}/pixeldit holds no case"
    assert kinds <= {"c2i", "t2i"}, "a kind without a test"
    assert not are_own_cases or kinds == {"c2i", "t2i"}


def test_class_conditional_forwards(pixeldit_c2i_case: Any, fill: ModuleType) -> None:
    """The velocity, square and oblong, for classes and the null class."""
    check_forwards(class_network(pixeldit_c2i_case.meta), pixeldit_c2i_case, fill)


def test_text_conditional_forwards(pixeldit_t2i_case: Any, fill: ModuleType) -> None:
    """The velocity in upstream's time and direction."""
    check_forwards(text_network(pixeldit_t2i_case.meta), pixeldit_t2i_case, fill)
