"""A diffusers pipeline as a model: described as data, then called as its users call it.

The pipeline draws its noise itself, from a fresh generator for each sample: an image is that of the
user's own call with `generator=[torch.Generator().manual_seed(seed), ...]`, in every dtype.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from evalsuite.artifacts.hub import hub_folder
from evalsuite.config import DtypeName, EvaluationDefaults, ModelPreset, Scalar
from evalsuite.errors import ConfigError, DataError, UsageError
from evalsuite.models.diffusers_call import (
    DiffusersSettings,
    PipelineCall,
    imported_diffusers,
    pipeline_class,
    read_call,
)
from evalsuite.models.diffusers_folder import (
    CUSTOM_CODE,
    PipelineFolder,
    read_pipeline_folder,
    weights_sha256_of,
)
from evalsuite.models.diffusers_loading import check_versions, loaded_pipeline, versions_of
from evalsuite.models.foreign import DIFFUSERS, ForeignModel, Pin, refuse_keys_of_our_models
from evalsuite.models.protocol import Condition

BATCH_SIZE = 8
"""Of pipelines whose user asks for none."""
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
_NULL_LABEL_OF_DIT = 1000
"""What diffusers' DiTPipeline takes for no class, however many classes there are."""


def find_pipeline(
    name: str,
    *,
    trust_code: bool,
    offline: bool,
    preset: ModelPreset | None = None,
    pinned: Pin | None = None,
) -> ForeignModel:
    """A pipeline by its folder, or by `OWNER/NAME[@REVISION]` on a hub.

    Args:
        name: as above; a folder is looked for beside the preset's file, if there is one.
        trust_code: whether code in the folder may run. Without it none does: the folder is data.
        offline: look nothing up on a hub.
        preset: one that has this pipeline as its family; what it says goes before the folder's own.
        pinned: which commit of a repository a lock file holds, where there is one.

    Raises:
        UsageError: a name that is none, code that was not allowed, an unsupported pipeline.
        ConfigError: a preset that contradicts the folder, or has keys without effect.
        DataError: a folder that lacks files, or whose weights are pickled or cut short.
        EnvironmentProblem: diffusers is not installed, or the hub cannot be reached.
    """
    if preset is not None:
        refuse_keys_of_our_models(preset)
    imported_diffusers()
    path, label, origin = _located(name, preset.path.parent if preset else Path(), offline, pinned)
    folder = read_pipeline_folder(path, trust_code=trust_code)
    call = read_call(pipeline_class(folder))
    num_classes = _num_classes(folder) if call.condition == "class" else None
    own = _preset(folder, call, label, num_classes) if preset is None else preset
    if own.num_classes != num_classes:
        raise ConfigError(f"{own.path}: num_classes is {own.num_classes}, not {num_classes}")
    return ForeignModel(
        family=DIFFUSERS + folder.class_name,
        preset=own.model_copy(
            update={
                "network": _network(folder, call),
                "class_names": own.class_names or folder.class_names,
                "settings": {**call.settings, **(own.settings or {})},
            }
        ),
        settings_class=call.settings_class,
        pipeline=path,
        needs_weights=False,
        origin=origin,
    )


class DiffusersModel:
    """A pipeline with its own sampler; the weights are its folder."""

    Settings: ClassVar[type[BaseModel]] = DiffusersSettings

    def __init__(self, network: Mapping[str, Scalar], negative_prompt: str = "") -> None:
        """Args: a plan's `network`, and its negative prompt; "" leaves it to the pipeline."""
        self._network = network
        self._negative_prompt = negative_prompt
        self.nfe = 0

    @property
    def condition(self) -> Condition:
        """Labels or prompts; known once it is loaded."""
        return self._call.condition

    def load(self, weights: Path | None, ema: str, device: torch.device, dtype: DtypeName) -> None:  # noqa: ARG002
        """Load the folder `weights`; it holds one set of weights, so that `ema` chooses nothing.

        Raises:
            DataError: the folder is missing, or weights do not fit their configuration.
            EnvironmentProblem: other versions of diffusers or transformers than the plan's.
        """
        if weights is None:
            raise DataError("a diffusers pipeline needs its folder")
        check_versions(self._network)
        self._folder = read_pipeline_folder(
            weights, trust_code=bool(self._network.get(CUSTOM_CODE))
        )
        kind = pipeline_class(self._folder)
        self._call = read_call(kind)
        if self._negative_prompt and not self._call.takes_negative_prompt:
            raise UsageError(f"{self._folder.class_name} takes no negative prompt")
        self._pipeline = loaded_pipeline(kind, self._folder, getattr(torch, dtype)).to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._rows = 0
        for name, component in self._pipeline.components.items():
            if name.startswith(("transformer", "unet")) and isinstance(component, nn.Module):
                component.register_forward_pre_hook(self._count, with_kwargs=True)

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Of noise that tells the size alone: the pipeline draws its own from the same seeds.

        Raises:
            UsageError: a size that the pipeline cannot make.
        """
        own = default_size(self._folder, self._call)
        if not self._call.takes_size and own is not None and size != own:
            raise UsageError(
                f"{self._folder.class_name} makes {own[0]}x{own[1]}, not {size[0]}x{size[1]}"
            )
        return (3, *size)

    def sample(
        self,
        noise_BCHW: Tensor,
        conditions: Sequence[Any],
        generators: Sequence[torch.Generator],
        settings: DiffusersSettings,
    ) -> Tensor:
        """Images [B,3,H,W], float32 in [-1, 1]; sets `nfe`.

        They are what the pipeline gives with `output_type="np"`, in [0, 1], times 2 minus 1. The
        rule `half_up` makes of them the pixels of its PIL images but for about 7 values in a
        million, which are one level off: 2 v - 1 rounds away last bits of v below a half.

        Raises:
            ValueError: a label or a prompt that it cannot take, or an image that was blanked.
        """
        self._rows = 0
        arguments = self._arguments(conditions, generators, settings)
        if self._call.takes_size:
            arguments |= {"height": noise_BCHW.shape[2], "width": noise_BCHW.shape[3]}
        output = self._pipeline(**arguments)
        self.nfe = round(self._rows / len(conditions))
        flagged = [c for c, bad in zip(conditions, _flags(output, conditions), strict=True) if bad]
        if flagged:
            raise ValueError(
                f"the pipeline's safety checker blanked {len(flagged)} image(s), the first for"
                f" {flagged[0]!r}: take safety_checker out of model_index.json to run without it"
            )
        images_BHWC = getattr(output, "images", None)
        if not isinstance(images_BHWC, np.ndarray):
            raise ValueError(f"{self._folder.class_name} gave no images")
        x_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float()
        return x_BCHW * 2 - 1

    def _arguments(
        self,
        conditions: Sequence[Any],
        generators: Sequence[torch.Generator],
        settings: DiffusersSettings,
    ) -> dict[str, Any]:
        """Arguments of the pipeline's call; what is not asked is left to its defaults."""
        seeds = [generator.initial_seed() for generator in generators]
        arguments: dict[str, Any] = {
            "num_inference_steps": settings.num_steps,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "np",
        }
        if self._call.takes_guidance:
            arguments["guidance_scale"] = settings.guidance_scale
        if self._call.condition == "class":
            num_classes = _num_classes(self._folder)
            wrong = [label for label in conditions if not 0 <= label < num_classes]
            if wrong:
                raise ValueError(f"label {wrong[0]} is none of the classes 0..{num_classes - 1}")
            return arguments | {"class_labels": list(conditions)}
        self._check_prompts([*conditions, self._negative_prompt])
        if self._negative_prompt:
            arguments["negative_prompt"] = [self._negative_prompt] * len(conditions)
        return arguments | {"prompt": list(conditions)}

    def _check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that every tokenizer would cut; the pipeline would do so silently."""
        limits = {}
        for name, part in self._pipeline.components.items():
            limit = getattr(part, "model_max_length", None)
            if name.startswith("tokenizer") and limit is not None:
                limits[name] = min(limit, self._call.max_tokens or limit)
        if not limits:
            return
        name, limit = max(limits.items(), key=lambda item: item[1])
        tokenizer = self._pipeline.components[name]
        for prompt in dict.fromkeys(prompts):
            count = len(tokenizer(prompt).input_ids)
            if count > limit:
                raise ValueError(
                    f"the prompt {prompt[:40]!r}... has {count} tokens; the pipeline takes {limit}:"
                    " shorten it"
                )

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """Count images that the network evaluates; a guided pair is two."""
        seen = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        self._rows += len(seen) if isinstance(seen, Tensor) else 0


def default_size(folder: PipelineFolder, call: PipelineCall) -> tuple[int, int] | None:
    """(H, W) that the pipeline makes by itself; None when neither its call nor its folder says."""
    if call.size is not None:
        return call.size
    side = folder.config(folder.denoiser).get("sample_size")
    vae = folder.config("vae")
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    if side is None or ("vae" in folder.components and not levels):
        return None
    factor = 2 ** (len(levels) - 1) if levels else 1
    height, width = side if isinstance(side, list) else (side, side)
    return height * factor, width * factor


class _Located(NamedTuple):
    """A pipeline's folder, what to call it without this machine's paths, and its place on a hub."""

    path: Path
    label: str
    origin: dict[str, Scalar]


def _located(name: str, beside: Path, offline: bool, pinned: Pin | None) -> _Located:
    local = beside / name
    if local.is_dir():
        return _Located(local.resolve(), local.resolve().name, {})
    match = _REPOSITORY.fullmatch(name)
    if match is None:
        raise UsageError(f"{DIFFUSERS}{name}: no such folder, and not OWNER/NAME[@REVISION]")
    repo, asked = match.groups()
    path = hub_folder(repo, pinned(repo, asked) if pinned else asked, offline=offline)
    origin: dict[str, Scalar] = {"repo": repo, "revision": path.name}
    if asked:
        origin["asked"] = asked
    return _Located(path, f"{repo}@{path.name[:12]}", origin)


def _preset(
    folder: PipelineFolder, call: PipelineCall, label: str, num_classes: int | None
) -> ModelPreset:
    """What the folder says of itself, as a preset."""
    size = default_size(folder, call)
    if size is None:
        raise UsageError(
            f"{folder.class_name} does not say its image size: write a preset with `family:"
            f" {DIFFUSERS}...` and `size`"
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label.partition("@")[0].rpartition("/")[2])
    return ModelPreset(
        name=name.lstrip("._-") or "pipeline",
        title=f"{folder.class_name} of {label}",
        description=f"The diffusers pipeline {label}, with its own sampler and settings.",
        family=DIFFUSERS + folder.class_name,
        licence="unstated",
        num_classes=num_classes,
        size=size,
        batch_size=BATCH_SIZE,
        evaluation=EvaluationDefaults(num_samples=50_000),
        path=folder.path / "none.yaml",
    )


def _num_classes(folder: PipelineFolder) -> int:
    config = folder.config(folder.denoiser)
    stated = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    named = len(folder.class_names) if folder.class_names else stated
    if not isinstance(stated, int) or named != stated:
        raise DataError(f"{folder.path.name}: {stated} classes, of which {named} have names")
    if folder.class_name == "DiTPipeline" and stated != _NULL_LABEL_OF_DIT:
        raise UsageError(
            f"{folder.path.name} has {stated} classes: diffusers' DiTPipeline guides by label"
            f" {_NULL_LABEL_OF_DIT}, which means no class to models of {_NULL_LABEL_OF_DIT} alone"
        )
    return stated


def _network(folder: PipelineFolder, call: PipelineCall) -> dict[str, Scalar]:
    """What decides pixels beside weights and settings."""
    facts: dict[str, Scalar | None] = {
        "pipeline": folder.class_name,
        **{f"{name}_class": part.class_name for name, part in sorted(folder.components.items())},
        **versions_of(folder),
        CUSTOM_CODE: True if folder.code else None,
    }
    if "vae" in folder.components:
        vae = folder.config("vae")
        facts |= {
            "vae": _published_name(vae) or folder.components["vae"].class_name,
            "vae_sha256": weights_sha256_of(folder.path / "vae"),
            "vae_scale": vae.get("scaling_factor"),
            "vae_shift": vae.get("shift_factor"),
        }
    if call.takes_guidance:  # of a latent x: diffusers guides every channel, DiT's authors three
        facts["guided_channels"] = folder.config(folder.denoiser).get("in_channels")
    return {name: value for name, value in facts.items() if value is not None}


def _published_name(config: Mapping[str, Any]) -> str | None:
    """The repository that a component was taken from, when its configuration names one."""
    name = config.get("_name_or_path")
    return name if isinstance(name, str) and _REPOSITORY.fullmatch(name) else None


def _flags(output: object, conditions: Sequence[object]) -> Sequence[bool]:
    """For each image whether a safety checker blanked it."""
    return getattr(output, "nsfw_content_detected", None) or [False] * len(conditions)
