"""Prompts of an invocation: which, through which encoder, and their features for the workers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from evalsuite.artifacts.hub import hub_folder
from evalsuite.artifacts.storage import Place, open_storage
from evalsuite.conditioning.encoder_files import encoder_digest
from evalsuite.conditioning.prompt_tokens import load_prompt_tokens
from evalsuite.conditioning.prompts import Prompt, check_prompt, prompts_sha256, read_prompts
from evalsuite.conditioning.random_features import random_features
from evalsuite.conditioning.text_cache import TextCache
from evalsuite.config import (
    RANDOM_WEIGHTS,
    ModelPreset,
    Plan,
    PromptList,
    Scalar,
    TextConditions,
    TextEncoderSpec,
)
from evalsuite.errors import DataError, UsageError
from evalsuite.models.native import TextFeatures
from evalsuite.pipeline.weights import WeightsRequest

_FLAGS = {
    "prompts": "--prompts",
    "prompt": "--prompt",
    "negative_prompt": "--negative-prompt",
    "encoder": "--text-encoder",
    "cut": "--cut-prompts",
    "shared_seeds": "--shared-seeds",
}
_KEPT_BATCHES = 6
"""Batches whose prompts' features stay in memory: those of two shards that are drawn ahead, the one
that is computed, and a little room."""


@dataclass(frozen=True)
class TextRequest:
    """What an invocation says about prompts."""

    prompts: Path | None = None
    prompt: tuple[str, ...] = ()
    negative_prompt: str | None = None
    encoder: Path | None = None
    cut: bool = False
    """Whether prompts beyond the encoder's length may be cut, as the published programs do."""
    shared_seeds: bool = False
    """Whether image k of every prompt has the same seed, as the original programs have it."""

    def refuse_for(self, name: str) -> None:
        """Raise UsageError when anything was asked, for a model that takes classes."""
        for flag in self._given(tuple(_FLAGS)):
            raise UsageError(f"{name} is class-conditional: {flag} is for text models")

    def refuse_encoder(self, why: str) -> None:
        """Raise UsageError when anything was said about an encoder that is not used."""
        for flag in self._given(("encoder", "cut")):
            raise UsageError(f"{flag}: {why}")

    def _given(self, fields: Sequence[str]) -> list[str]:
        return [_FLAGS[field] for field in fields if getattr(self, field) not in {None, (), False}]


class FoundEncoder(NamedTuple):
    """The folder of a text encoder, and where it came from."""

    folder: Path
    sha256: str
    origin: dict[str, Scalar]


@dataclass(frozen=True)
class ResolvedText:
    """Conditions of a text model with what is needed to compute their features."""

    conditions: TextConditions
    prompts: tuple[str, ...]
    encoder: FoundEncoder | None
    """None when there is none to be read."""
    notices: tuple[str, ...]


def resolve_text(
    preset: ModelPreset, request: TextRequest, weights: WeightsRequest
) -> ResolvedText:
    """The prompts and the encoder of an invocation.

    Raises:
        UsageError: no prompts, or one that is too long for the encoder.
        DataError: an encoder that cannot be used.
    """
    prompts, notices = _prompts(preset, request)
    spec = preset.text.encoder if preset.text else None
    own = preset.text.negative_prompt if preset.text else ""
    negative = own if request.negative_prompt is None else request.negative_prompt
    if negative:
        check_prompt(negative, "--negative-prompt")
    encoder = None
    if spec is None:
        request.refuse_encoder(f"{preset.name} brings its own text encoder")
    elif weights.are_random:
        request.refuse_encoder("with random weights no prompt is encoded")
    else:
        _check_instruction(preset)
        encoder = _find_encoder(spec, request.encoder or own_encoder(preset), weights)
        notices += _cut_prompts(spec, encoder.folder, prompts, negative, request.cut)
    notices += _own_seeds(preset, request)
    conditions = TextConditions(
        prompts=PromptList(count=len(prompts), sha256=prompts_sha256(prompts)),
        negative_prompt=negative,
        encoder=spec,
        encoder_sha256=encoder.sha256 if encoder else None,
        seeds="shared" if request.shared_seeds else None,
    )
    return ResolvedText(conditions, prompts, encoder, notices)


def features_of(
    plan: Plan,
    prompts: Sequence[str],
    folder: Path | None,
    cache: Place,
    device: torch.device,
    numerics_id: str,
    earlier: Place | None = None,
) -> TextFeatures:
    """Features of all prompts of a plan, encoded by whichever worker comes first.

    Args:
        plan: of a text model of ours.
        prompts: its list.
        folder: of the encoder; None with random weights.
        cache: where the features are, or are put.
        device: where the encoder computes.
        numerics_id: of that device and its libraries.
        earlier: another such cache, of which is copied what is there.

    Raises:
        DataError: the encoder is missing or not the plan's.
    """
    text = plan.text
    assert text is not None
    assert text.encoder is not None
    if prompts_sha256(prompts) != text.prompts.sha256:
        raise DataError("the prompts are not the plan's: their SHA-256 is another")
    spec, num_kept = text.encoder, _KEPT_BATCHES * plan.batch_size
    if plan.has_random_weights:
        seed = int(plan.ema.removeprefix(RANDOM_WEIGHTS))
        length, width = spec.max_length, spec.width

        def made(some: Sequence[str]) -> list[Tensor]:
            return [random_features(prompt, seed, length, width) for prompt in some]

        return TextFeatures(made, made([text.negative_prompt])[0], num_kept)
    if folder is None:
        raise DataError("the plan's text encoder is not here: give --text-encoder FOLDER")
    last = Prompt(text.negative_prompt, negative=True)
    stored = TextCache(cache, spec, text.encoder_sha256 or "", numerics_id)
    if earlier is not None:
        stored.take_over(replace(stored, root=earlier), [*map(Prompt, prompts), last])
    stored.prepare([*map(Prompt, prompts), last], folder, device)
    return TextFeatures(
        lambda some: stored.read([Prompt(prompt) for prompt in some]),
        stored.read([last])[0],
        num_kept,
    )


def own_encoder(preset: ModelPreset) -> Path | None:
    """The folder of the text encoder that comes with a preset; None for one of the hub."""
    if preset.text is None or preset.text.folder is None:
        return None
    return preset.path.parent / preset.text.folder


def features_on_disk(plan: Plan, cache: Place) -> int:
    """How many prompts of a plan's encoder have their features in a folder."""
    digest = plan.text.encoder_sha256 if plan.text else None
    if digest is None:
        return 0
    return len(open_storage(cache).names(digest[:16], ".safetensors"))


def _prompts(preset: ModelPreset, request: TextRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if request.prompts is not None and request.prompt:
        raise UsageError("--prompts and --prompt exclude each other")
    if request.prompts is not None:
        return read_prompts(request.prompts), ()
    if request.prompt:
        return tuple(check_prompt(p, "--prompt") for p in request.prompt), ()
    if preset.text is None or preset.text.prompts is None:
        raise UsageError(f"{preset.name} is a text model: give --prompts FILE or --prompt TEXT")
    prompts = read_prompts(preset.path.parent / preset.text.prompts)
    return prompts, (f"no prompts were given: these are {len(prompts)} of evalsuite's own",)


def _own_seeds(preset: ModelPreset, request: TextRequest) -> tuple[str, ...]:
    """A notice where a list of prompts gets other noises than the published figures are of."""
    shares = preset.text is not None and preset.text.shared_seeds
    if not shares or not preset.published or request.shared_seeds or request.prompts is None:
        return ()
    return (
        f"every image has a seed of its own; {preset.name}'s published figures are of the same few"
        " noises for every prompt: --shared-seeds takes those",
    )


def _check_instruction(preset: ModelPreset) -> None:
    if preset.text is not None and preset.text.lacks_instruction:
        raise UsageError(
            f"{preset.name} lacks the {preset.text.instruction_lines} lines of instruction that its"
            f" authors put before each prompt: give them in a preset of your own (`extends:"
            f" {preset.name}`, text.encoder.instruction), or set text.instruction_lines: 0 there"
        )


def _find_encoder(
    spec: TextEncoderSpec, given: Path | None, weights: WeightsRequest
) -> FoundEncoder:
    """The folder that was given or is the preset's, or the hub's, whose name is its commit."""
    if given is not None:
        if not given.is_dir():
            raise DataError(f"text encoder {given} is no folder")
        folder = given.resolve()
        return FoundEncoder(folder, encoder_digest(folder), {"text_encoder": folder.name})
    revision = spec.revision
    if weights.lock is not None:
        revision = weights.lock.pin(spec.repo, revision, None).revision
    folder = hub_folder(spec.repo, revision, offline=weights.offline)
    origin: dict[str, Scalar] = {
        "text_encoder_repo": spec.repo,
        "text_encoder_revision": folder.name,
    }
    if spec.revision:
        origin["text_encoder_asked"] = spec.revision
    return FoundEncoder(folder, encoder_digest(folder), origin)


def _cut_prompts(
    spec: TextEncoderSpec, folder: Path, prompts: Sequence[str], negative: str, cut: bool
) -> tuple[str, ...]:
    """Notices about prompts that lose their end; an error unless that is allowed."""
    tokens = load_prompt_tokens(spec, folder)
    long = [one.describe() for one in tokens.too_long(prompts)]
    for one in tokens.too_long([negative], negative=True):
        long.append(f"the negative prompt has {one.num_tokens} tokens of {one.max_length}")
    if not long:
        return ()
    more = f" (and {len(long) - 1} more)" if len(long) > 1 else ""
    if not cut:
        raise UsageError(
            f"{long[0]}{more}: shorten it, or give --cut-prompts to cut as the published programs"
            " do"
        )
    return (f"{long[0]}{more}: cut, as the published programs do",)
