"""Runs of PixelGen's and PixelDiT's goldens, replayed with our solvers."""

import dataclasses
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evalsuite.config import SamplingSettings
from evalsuite.models.registry import ModelFamily, family_named
from evalsuite.sampling.guidance import (
    Denoiser,
    GuidedVelocity,
    VelocityFn,
    clean_to_velocity,
    reversed_time,
)
from evalsuite.sampling.sampler import guidance_of, solve

TRAINING_ONLY = {"attn_drop", "proj_drop", "repa_encoder_index", "weight_path", "load_ema"}
"""Arguments of the original constructors that do not act in a forward."""
WITHOUT_EFFECT = {"num_text_blocks", "use_text_rope", "mlp_ratio"}
"""Arguments that the released networks have at one value alone."""
SOLVERS = {
    "euler": "euler",
    "heun": "heun",
    "adam_lm": "adams",
    "flow_dpm": "adams2_constant",
    "dpmpp_2m_flow": "dpmpp_2m",
}


class Network(NamedTuple):
    """A filled network and the velocity that it stands for."""

    family: ModelFamily
    module: nn.Module
    denoiser: Denoiser


def network_of(family_name: str, meta: dict[str, Any], arrays: Any, fill: ModuleType) -> Network:
    """The network of a case, every tensor filled by its upstream name."""
    family = family_named(family_name)
    config_type, build = family.load()
    known = {field.name for field in dataclasses.fields(config_type)}
    dropped = meta["config"].keys() - known
    assert dropped <= TRAINING_ONLY | WITHOUT_EFFECT | {"text_rope_theta"}, dropped
    module = build(config_type(**{k: v for k, v in meta["config"].items() if k in known}))
    state = fill.state_dict_for(meta["state_dict"], meta["salt"])
    if meta.get("pos_embed") == "sincos":
        state["pos_embed"] = torch.from_numpy(arrays["pos_embed"])
    module.load_state_dict(state)
    module = module.eval().requires_grad_(False)
    denoiser: Denoiser = module
    if family.prediction == "clean":
        denoiser = clean_to_velocity(module, 0.05)
    if family.prediction == "reversed_velocity":
        denoiser = reversed_time(module)
    return Network(family, module, denoiser)


def settings_of(run: dict[str, Any], family_name: str, *, skip: bool) -> SamplingSettings:
    """Our settings for a run: ends of the interval and the corrector's time are the family's."""
    pixelgen = family_name.startswith("pixelgen")
    low, high = run["interval"]
    reverse = run["sampler"] == "dpmpp_2m_flow"
    heun = run["sampler"] == "heun"
    solver = "heun_reuse" if heun and not run["exact_heun"] else SOLVERS[run["sampler"]]
    return SamplingSettings(
        solver=solver,
        num_steps=run["num_steps"],
        order=run["order"] if solver == "adams" else None,
        last_step=run.get("last_step"),
        timeshift=run["timeshift"],
        guidance_scale=run["guidance"],
        guidance_interval=(1 - high, 1 - low) if reverse else (low, high),
        interval_ends="left_open" if pixelgen and run["sampler"] in {"euler", "heun"} else "open",
        skip_unguided=skip,
        noise_scale=run["noise_scale"],
        corrector_guidance="start" if heun and pixelgen else None,
        coefficients="float32" if solver == "adams" else None,
    )


class Replay(NamedTuple):
    """What a run of ours gave."""

    x: Tensor
    states: list[Tensor]
    """Before each step; empty for the solver whose predictor is not evaluated there."""
    velocities: list[Tensor]
    nfe: int


class Recorder:
    """A velocity function that keeps what passes."""

    def __init__(self, velocity: VelocityFn) -> None:
        self._velocity = velocity
        self.states: list[Tensor] = []
        self.velocities: list[Tensor] = []

    def __call__(self, x_BCHW: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
        v = self._velocity(x_BCHW, t, guided_at)
        self.states.append(x_BCHW)
        self.velocities.append(v)
        return v


def replay(network: Network, settings: SamplingSettings, arrays: Any, null_label: int) -> Replay:
    """Integrate from the case's noise under the case's conditions."""
    if network.family.condition == "class":
        condition = torch.from_numpy(arrays["labels"])
        null = torch.full_like(condition, null_label)
    else:
        condition = torch.from_numpy(arrays["cond"])
        null = torch.from_numpy(arrays["uncond"]).expand_as(condition)
    guided = GuidedVelocity(network.denoiser, condition, null, guidance_of(settings))
    recorder = Recorder(guided)
    noise = torch.from_numpy(arrays["x0"]) * settings.noise_scale
    x = solve(settings, recorder, noise, ())
    states = recorder.states
    if settings.solver == "heun":
        states = states[::2]
    if settings.solver == "heun_reuse":
        states = []
    return Replay(x, states, recorder.velocities, guided.nfe)
