"""Our models as the pipeline sees them: conditions, dtypes on the way of a sample, the guide."""

from collections.abc import Callable, Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor

from evalsuite.config import (
    GuideModel,
    ModelPreset,
    SamplingSettings,
    Scalar,
    SolverName,
    load_spec,
)
from evalsuite.models.native import NativeModel, TextFeatures
from evalsuite.sampling import sampler, solvers
from evalsuite.sampling.noise import draw_noise, sample_generators

CPU = torch.device("cpu")
PIXNERD: dict[str, Scalar] = {
    "hidden_size": 32,
    "num_groups": 2,
    "num_blocks": 3,
    "num_cond_blocks": 2,
    "hidden_size_x": 8,
    "nerf_mlpratio": 2,
    "patch_size": 4,
    "num_classes": 5,
}
JIT: dict[str, Scalar] = {
    "input_size": 8,
    "patch_size": 4,
    "hidden_size": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
    "use_bottleneck": False,
    "in_context_len": 2,
    "in_context_start": 1,
}
PIXELDIT: dict[str, Scalar] = {
    "in_channels": 3,
    "num_groups": 2,
    "hidden_size": 32,
    "pixel_hidden_size": 8,
    "patch_depth": 1,
    "pixel_depth": 1,
    "patch_size": 4,
    "num_classes": 5,
}
PIXELDIT_TEXT: dict[str, Scalar] = {
    "hidden_size": 32,
    "num_groups": 2,
    "patch_depth": 1,
    "pixel_depth": 1,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 24,
    "pixel_num_groups": 2,
    "patch_size": 4,
    "txt_embed_dim": 6,
    "txt_max_length": 3,
}
TEXT: dict[str, Scalar] = {
    "input_size": 8,
    "patch_size": 4,
    "hidden_size": 32,
    "num_groups": 2,
    "num_blocks": 1,
    "num_text_blocks": 1,
    "txt_embed_dim": 6,
    "txt_max_length": 3,
    "bottleneck_dim": 8,
}


def settings(dtype: str, t_eps: float | None = None, **changes: object) -> SamplingSettings:
    fields = {"solver": "adams", "order": 2, "num_steps": 4, "guidance_scale": 2.0, "dtype": dtype}
    return SamplingSettings.model_validate(fields | {"t_eps": t_eps} | changes)


def sampled(model: NativeModel, chosen: SamplingSettings, conditions: list[object]) -> Tensor:
    generators = sample_generators(range(len(conditions)))
    noise = draw_noise(generators, (3, 8, 8))
    with torch.inference_mode():
        return model.sample(noise, conditions, generators, chosen)


@pytest.mark.parametrize(
    ("family", "network", "t_eps", "velocity"),
    [
        ("pixnerd-class", PIXNERD, None, torch.bfloat16),
        ("pixeldit-class", PIXELDIT, None, torch.bfloat16),
        ("pixelgen-class", JIT, 0.05, torch.float32),
    ],
)
def test_velocity_and_guidance_have_the_dtype_of_the_authors_programs(
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    network: dict[str, Scalar],
    t_eps: float | None,
    velocity: torch.dtype,
) -> None:
    """bfloat16 for networks that give a velocity; float32 where x is subtracted; x is float32.

    Sources: facts on PixNerd (7), PixelDiT (4.2) and PixelGen (5).
    """
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    original = solvers.sample_adams

    def watched(v: solvers.VelocityFn, noise: Tensor, *rest: object) -> Tensor:
        def keep(x: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
            out = v(x, t)
            seen.append((x.dtype, out.dtype))
            return out

        return original(keep, noise, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sampler.solvers, "sample_adams", watched)
    model = NativeModel(family, network, t_eps)
    model.load(None, "random:1", CPU, "bfloat16")
    x = sampled(model, settings("bfloat16", t_eps), [1, 2])
    assert x.dtype == torch.float32
    assert seen == [(torch.float32, velocity)] * 4


def test_bfloat16_stays_near_float32_over_a_whole_trajectory() -> None:
    """Measured 0.009 of the images' spread with these weights; a wrong flow gives far more."""
    images = []
    for dtype in ("float32", "bfloat16"):
        model = NativeModel("pixnerd-class", PIXNERD)
        model.load(None, "random:1", CPU, dtype)
        images.append(sampled(model, settings(dtype), [1, 2]))
    error = (images[0] - images[1]).square().mean().sqrt() / images[0].std()
    assert 0 < error < 0.03


def test_the_null_label_is_the_one_after_the_last() -> None:
    """Guidance of scale 0 is the null condition alone: the labels do not matter."""
    model = NativeModel("pixnerd-class", PIXNERD)
    model.load(None, "random:1", CPU, "float32")
    off = settings("float32", guidance_scale=0.0, interval_ends="closed")
    assert torch.equal(sampled(model, off, [0, 1]), sampled(model, off, [3, 4]))
    on = settings("float32", guidance_scale=1.0)
    assert not torch.equal(sampled(model, on, [0, 1]), sampled(model, on, [3, 4]))


def features(seed: int) -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(seed)).bfloat16()


def among(known: dict[str, Tensor]) -> Callable[[Sequence[str]], list[Tensor]]:
    """What reads the features of prompts out of a dictionary."""
    return lambda prompts: [known[prompt] for prompt in prompts]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_text_features_reach_the_network_in_its_dtype(dtype: str) -> None:
    """bfloat16 under autocast, where they decide the text stream's dtype; float32 without."""
    texts = TextFeatures(among({"a": features(1), "b": features(2)}), features(3))
    model = NativeModel("pixelgen-text", TEXT, 0.05, texts)
    model.load(None, "random:1", CPU, dtype)
    given, null = model._tensors(["b", "a"])
    assert given.dtype == null.dtype == getattr(torch, dtype)
    assert torch.equal(given.bfloat16(), torch.stack([features(2), features(1)]))
    assert torch.equal(null.bfloat16(), torch.stack([features(3)] * 2))
    images = sampled(model, settings(dtype, 0.05), ["a", "b"])
    assert not torch.equal(images[0], images[1])


def test_a_guide_with_the_models_own_weights_leaves_the_conditional_model() -> None:
    """v + s (v - v): the same images as without guidance, and another guide gives others."""
    preset = load_spec(ModelPreset, "pixnerd-digits")
    assert preset.weights.file
    weights = preset.path.parent / preset.weights.file
    images = {}
    for name, ema in (("none", None), ("self", "averaged"), ("random", "random:1")):
        model = NativeModel(preset.family, preset.network)
        model.load(weights, "averaged", CPU, "float32")
        if ema is not None:
            guide = GuideModel(
                family=preset.family,
                network=preset.network,
                weights_sha256="0" * 64,
                ema=ema,
                condition="same",
            )
            model.load_guide(guide, None if ema.startswith("random") else weights)
        chosen = settings("float32", guidance_scale=1.0 if name == "none" else 3.0)
        generators = sample_generators([1])
        with torch.inference_mode():
            noise = draw_noise(generators, (3, 16, 16))
            images[name] = model.sample(noise, [4], generators, chosen)
    assert torch.equal(images["none"], images["self"])
    assert not torch.allclose(images["none"], images["random"], atol=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("solver", get_args(SolverName))
@pytest.mark.parametrize(
    ("family", "network", "t_eps"),
    [
        ("pixnerd-class", PIXNERD, None),
        ("pixelgen-class", JIT, 0.05),
        ("pixeldit-text", PIXELDIT_TEXT, None),
    ],
)
def test_every_solver_runs_on_every_prediction(
    family: str, network: dict[str, Scalar], t_eps: float | None, solver: str, dtype: str
) -> None:
    """Velocity, clean image, reversed velocity; finite images whatever the solver's times are."""
    texts = TextFeatures(among({"a": features(1)}), features(3))
    model = NativeModel(family, network, t_eps, texts)
    model.load(None, "random:1", CPU, dtype)
    chosen = settings(dtype, t_eps, solver=solver, order=2 if solver == "adams" else None)
    x = sampled(model, chosen, ["a"] if model.condition == "text" else [1])
    assert x.dtype == torch.float32
    assert bool(torch.isfinite(x).all())
