"""How fast our sampler is against a plain eager loop over the same network, as the authors run it.

Four ways of the same images alternate in one process:

    plain      float32 weights, which autocast rounds again at every call, and the doubled batch
               (unconditional half and conditional half) at every step
    held       the weights of the products are held in bfloat16, the batch is doubled
    skipping   float32 weights, only the conditional half where the guidance scale is 1
    ours       both: `NativeModel`, as workers run it

`held` differs from `plain`, and `ours` from `skipping`, in bfloat16 only. Machines are noisy, so
quote the ratios. Needs torch, numpy, pydantic, yaml and safetensors:

    python -m benchmarks.generation --model pixnerd-xl-256 --batch-size 8 16 32 --json xl-256.json
    python -m benchmarks.generation --model pixnerd-digits --device cpu

Legend: B batch, C channels, H height, W width, T text tokens, D width of text features.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Figure, Way, measure, used_bytes
from evalsuite.conditioning.random_features import random_features
from evalsuite.config import (
    RANDOM_WEIGHTS,
    DtypeName,
    ModelPreset,
    SamplingSettings,
    load_spec,
)
from evalsuite.errors import EvalsuiteError, UsageError
from evalsuite.models.loading import in_bfloat16, load_module
from evalsuite.models.native import NativeModel, TextFeatures
from evalsuite.models.registry import ModelFamily, family_named
from evalsuite.pipeline.numerics import numerics_of, prepare_torch, resolve_device
from evalsuite.sampling.guidance import (
    Denoiser,
    Guidance,
    VelocityFn,
    clean_to_velocity,
    reversed_time,
)
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.sampler import (
    Conditions,
    count_nfe,
    guidance_of,
    sample_batch,
    solve,
)


class OwnGrid(NamedTuple):
    """Network evaluations per image on a preset's own grid: all of them, and those of `ours`."""

    num_steps: int
    nfe_doubled: int
    nfe: int

    @property
    def skipped(self) -> float:
        """The share of the work that is skipped."""
        return (self.nfe_doubled - self.nfe) / self.nfe_doubled


def own_grid(settings: SamplingSettings) -> OwnGrid:
    """What skipping saves with these settings; counted, nothing is computed."""
    counts = [
        count_nfe(settings.model_copy(update={"skip_unguided": skip})) for skip in (False, True)
    ]
    return OwnGrid(settings.num_steps, *counts)


class Case(NamedTuple):
    """What is computed: a preset at full size, its settings with the asked steps and dtype."""

    preset: ModelPreset
    family: ModelFamily
    settings: SamplingSettings
    grid: OwnGrid
    weights: Path | None
    ema: str
    device: torch.device

    @property
    def doubled(self) -> SamplingSettings:
        """The settings without skipping."""
        return self.settings.model_copy(update={"skip_unguided": False})


class PlainLoop:
    """The network as the authors' programs run it: float32 weights under bfloat16 autocast."""

    def __init__(self, case: Case) -> None:
        self._case = case
        network = load_module(case.preset.family, case.preset.network, case.weights, case.ema)
        self.denoiser = self._as_velocity(network.to(case.device))

    def sample(self, noise_BCHW: Tensor, conditions: Conditions) -> Tensor:
        """Images [B,C,H,W] with the doubled batch at every step."""
        settings = self._case.settings
        velocity = doubled_velocity(self.denoiser, conditions, guidance_of(settings))
        return solve(settings, velocity, noise_BCHW * settings.noise_scale, ()).float()

    def _as_velocity(self, network: nn.Module) -> Denoiser:
        settings, device = self._case.settings, self._case.device
        bfloat16 = settings.dtype == "bfloat16"
        denoiser: Denoiser = in_bfloat16(network, device) if bfloat16 else network
        if self._case.family.prediction == "clean":
            assert settings.t_eps is not None
            return clean_to_velocity(denoiser, settings.t_eps)
        reverse = self._case.family.prediction == "reversed_velocity"
        return reversed_time(denoiser) if reverse else denoiser


def doubled_velocity(denoiser: Denoiser, conditions: Conditions, guidance: Guidance) -> VelocityFn:
    """Guidance as the authors' samplers have it: both halves always, the scale 1 outside."""
    both = torch.cat((conditions.null, conditions.given))

    def velocity(x_BCHW: Tensor, t: Tensor, guided_at: Tensor | None = None) -> Tensor:
        scale = guidance.scale if guidance.acts_at(t if guided_at is None else guided_at) else 1.0
        t_B = t.to(x_BCHW.device).repeat(2 * len(x_BCHW))
        uncond, cond = denoiser(torch.cat((x_BCHW, x_BCHW)), t_B, both).chunk(2)
        return uncond + scale * (cond - uncond)

    return velocity


class Contestants:
    """The networks of a case, loaded once, and the four ways of sampling with them."""

    def __init__(self, case: Case) -> None:
        self._case = case
        preset, settings = case.preset, case.settings
        self._features = _random_text(preset)
        start = used_bytes(case.device)
        self._plain = PlainLoop(case)
        middle = used_bytes(case.device)
        self._native = NativeModel(preset.family, preset.network, settings.t_eps, self._features)
        self._native.load(case.weights, case.ema, case.device, settings.dtype)
        self._plain_bytes, self._native_bytes = middle - start, used_bytes(case.device) - middle

    def ways(self, batch_size: int) -> list[Way]:
        """The ways that differ for this case, `plain` first; all sample the same batch."""
        case, settings = self._case, self._case.settings
        generators = sample_generators(range(batch_size))
        noise_BCHW = draw_noise(generators, (3, *case.preset.size)).to(case.device)
        given = self._given(batch_size)
        conditions = self._conditions(given)
        full, saved = count_nfe(case.doubled), count_nfe(settings)

        def plain() -> Tensor:
            return self._plain.sample(noise_BCHW, conditions)

        def held() -> Tensor:
            return self._native.sample(noise_BCHW, given, generators, case.doubled)

        def skipping() -> Tensor:
            denoiser = self._plain.denoiser
            return sample_batch(denoiser, conditions, noise_BCHW, settings, generators).x_BCHW

        def ours() -> Tensor:
            return self._native.sample(noise_BCHW, given, generators, settings)

        ways = [
            Way("plain", plain, full, self._native_bytes),
            Way("held", held, full, self._plain_bytes),
            Way("skipping", skipping, saved, self._native_bytes),
            Way("ours", ours, saved, self._plain_bytes),
        ]
        return ways if settings.dtype == "bfloat16" else [ways[0], ways[3]]

    def _given(self, batch_size: int) -> list[Any]:
        if self._features is not None:
            return [str(index % _NUM_PROMPTS) for index in range(batch_size)]
        return [index % (self._case.preset.num_classes or 1) for index in range(batch_size)]

    def _conditions(self, given: Sequence[Any]) -> Conditions:
        """Conditions on the device, made here and not by the model that is measured."""
        case = self._case
        if self._features is None:
            labels_B = torch.tensor(given, device=case.device)
            return Conditions(labels_B, torch.full_like(labels_B, case.preset.num_classes or 0))
        dtype = torch.float32 if case.settings.dtype == "float32" else torch.bfloat16
        text_BTD = self._features.positive(given)
        null_BTD = self._features.negative().expand_as(text_BTD)
        return Conditions(text_BTD.to(case.device, dtype), null_BTD.to(case.device, dtype))


_NUM_PROMPTS = 4


def _random_text(preset: ModelPreset) -> TextFeatures | None:
    """Features of a few prompts, for a text model: their values do not change the work."""
    if preset.text is None:
        return None
    shape = (preset.text.encoder.max_length, preset.text.encoder.width)
    positive = {str(i): random_features(str(i), 0, *shape) for i in range(_NUM_PROMPTS)}
    return TextFeatures(
        lambda prompts: [positive[prompt] for prompt in prompts], random_features("", 0, *shape)
    )


def count_flops(preset: ModelPreset) -> int:
    """FLOP (2 per multiply-add) of one evaluation of one image, counted on the meta device."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = family_named(preset.family).build(preset.network)
        condition = torch.zeros(1, dtype=torch.long)
        if preset.text is not None:
            encoder = preset.text.encoder
            condition = torch.zeros(1, encoder.max_length, encoder.width)
        network(torch.zeros(1, 3, *preset.size), torch.zeros(1), condition)
    return int(counter.get_total_flops())


def case_of(arguments: argparse.Namespace) -> Case:
    """The case that the command line describes.

    Raises:
        UsageError: a model that brings its own sampler, or weights that it cannot have.
    """
    preset = load_spec(ModelPreset, arguments.model)
    if preset.sampling is None:
        raise UsageError(f"{preset.name} brings its own sampler: there is no plain loop to compare")
    given: str = arguments.weights
    dtype: DtypeName = arguments.dtype or preset.sampling.dtype
    return Case(
        preset=preset,
        family=family_named(preset.family),
        settings=preset.sampling.model_copy(
            update={"num_steps": arguments.num_steps, "dtype": dtype, "skip_unguided": True}
        ),
        grid=own_grid(preset.sampling),
        weights=None if given.startswith(RANDOM_WEIGHTS) else Path(given),
        ema=given if given.startswith(RANDOM_WEIGHTS) else preset.weights.ema,
        device=resolve_device(arguments.device),
    )


def machine_of(device: torch.device) -> dict[str, Any]:
    """The machine, as far as it decides speed."""
    facts = numerics_of(device)
    if device.type == "cuda":
        facts["memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    else:
        facts["cores"] = os.cpu_count()
    return facts


def heading(case: Case, flop: int) -> str:
    """What is measured, and what skipping saves on the preset's own grid."""
    preset, settings, grid = case.preset, case.settings, case.grid
    return (
        f"{preset.name}, {preset.size[0]} x {preset.size[1]}, {settings.dtype}, {settings.solver} "
        f"with {settings.num_steps} steps, {flop / 1e12:.4g} TFLOP per evaluation\n"
        f"the preset's own {grid.num_steps} steps take {grid.nfe} evaluations per image instead of"
        f" {grid.nfe_doubled}: {grid.skipped:.1%} of the work is skipped"
    )


def table(batch_size: int, figures: Sequence[Figure], own_nfe: int) -> str:
    """The figures of one batch size as text."""
    head = f"batch {batch_size}"
    lines = [f"\n{head:10}  evals  images/s  s/eval/image  TFLOP/s  peak GB  speed  rms diff"]
    lines += [
        f"{f.way:10} {f.nfe:6} {f.images_per_second:9.4g} {f.seconds_per_evaluation:13.4g}"
        f" {f.flop_per_second / 1e12:8.4g} {f.peak_bytes / 1e9:8.2f} {f.speed_ratio:6.3f}"
        f" {f.rms_difference:9.1e}"
        for f in figures
    ]
    rate = 1 / (own_nfe * figures[-1].seconds_per_evaluation)
    lines.append(f"at that pace the preset's own steps give {rate:.3g} images/s")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pixnerd-digits", help="a preset")
    parser.add_argument("--weights", default=f"{RANDOM_WEIGHTS}0", help="random:SEED or a file")
    parser.add_argument("--batch-size", type=int, nargs="+", help="the preset's own when absent")
    parser.add_argument("--num-steps", type=int, default=3, help="solver intervals of a round")
    parser.add_argument("--dtype", choices=get_args(DtypeName), help="the preset's when absent")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> None:
    """Print one table for each batch size, and keep the figures if a file is named."""
    arguments = parse()
    case = case_of(arguments)
    prepare_torch(case.device)
    flop, grid = count_flops(case.preset), case.grid
    print(heading(case, flop))
    contestants = Contestants(case)
    results: list[dict[str, Any]] = []
    for batch_size in arguments.batch_size or [case.preset.batch_size]:
        try:
            ways = contestants.ways(batch_size)
            figures = measure(ways, batch_size, flop, arguments.rounds, case.device)
        except torch.OutOfMemoryError:
            print(f"\nbatch {batch_size} does not fit this GPU's memory")
            results.append({"batch_size": batch_size, "figures": None})
            break
        print(table(batch_size, figures, grid.nfe))
        results.append({"batch_size": batch_size, "figures": [asdict(f) for f in figures]})
        if arguments.json is not None:  # after each size: whatever ends the next one
            keep_figures(arguments, case, flop, results)


def keep_figures(
    arguments: argparse.Namespace, case: Case, flop: int, results: list[dict[str, Any]]
) -> None:
    """Write what was measured so far."""
    kept = {
        "command": command_of(arguments),
        "machine": machine_of(case.device),
        "settings": case.settings.model_dump(mode="json", exclude_none=True),
        "flop_per_evaluation": flop,
        "own_grid": {**case.grid._asdict(), "skipped": case.grid.skipped},
        "results": results,
    }
    arguments.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def command_of(arguments: argparse.Namespace) -> str:
    """The command without the name of its output file."""
    words = ["python -m benchmarks.generation"]
    for name, value in vars(arguments).items():
        if value is not None and name != "json":
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            words.append(f"--{name.replace('_', '-')} {shown}")
    return " ".join(words)


if __name__ == "__main__":
    try:
        main()
    except EvalsuiteError as error:
        sys.exit(str(error))
