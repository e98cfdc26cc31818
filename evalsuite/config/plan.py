"""The plan: everything that decides pixels, resolved and frozen."""

import hashlib
from typing import Literal

from pydantic import Field, model_validator

from evalsuite.config.base import (
    RANDOM_WEIGHTS,
    DtypeName,
    Frozen,
    Scalar,
    Sha256,
    Size,
    Uint8Rule,
    canonical_json,
)
from evalsuite.config.sampling import LabelRule, SamplingSettings


class TextEncoderSpec(Frozen):
    """A text encoder and how prompts go through it; all of it decides pixels."""

    kind: Literal["qwen3", "gemma2"]
    repo: str
    """Hub repository of the weights and the tokenizer."""
    revision: str | None = None
    max_length: int = Field(ge=1)
    """Tokens that the denoiser receives."""
    width: int = Field(ge=1)
    attention: Literal["sdpa", "eager"] = "sdpa"
    empty_prompt: Literal["masked", "uniform"] = "masked"
    """What a prompt without tokens attends to: `uniform`, all padding evenly; `masked`, what SDPA
    gives under an all-zero mask."""
    instruction: tuple[str, ...] = ()
    """Lines put before a positive prompt."""
    dtype: DtypeName = "bfloat16"
    """Of the encoder and of the features that it gives."""

    @model_validator(mode="after")
    def _attention_of_kind(self) -> "TextEncoderSpec":
        if self.kind == "gemma2" and self.attention != "eager":
            raise ValueError("kind 'gemma2' needs attention 'eager': SDPA has no soft cap")
        return self


class PromptList(Frozen):
    """The prompts that `sample_index` chooses from."""

    count: int = Field(ge=1)
    sha256: Sha256
    """Of their text; see `conditioning.prompts.prompts_sha256`."""


class TextConditions(Frozen):
    """What a text model is conditioned on."""

    prompts: PromptList
    negative_prompt: str
    encoder: TextEncoderSpec | None = None
    """None for a model that brings its own."""
    encoder_sha256: Sha256 | None = None
    """Of the encoder's weights, configuration and tokenizer; None with random weights."""
    seeds: Literal["shared"] | None = None
    """shared: image k of every prompt has seed first_seed + k, so that all prompts share a few
    noises, as in the original programs; each sample has a seed of its own when absent."""


class GuideModel(Frozen):
    """A weaker model that takes the place of the unconditional one (autoguidance)."""

    family: str
    network: dict[str, Scalar]
    weights_sha256: Sha256
    ema: str
    condition: Literal["same", "null"]
    """What the guide is conditioned on: the sample's own condition, or the null one."""


class Plan(Frozen):
    """Everything that decides pixels, resolved. The sample count is not in it."""

    numerics_version: int
    family: str
    """Of the registry; `diffusers`; or `python:module:Class`."""
    network: dict[str, Scalar]
    source_sha256: Sha256 | None = None
    """Of the code of a `python:` model."""
    weights_sha256: Sha256
    ema: str
    """Which of a checkpoint's weights; `random:SEED` for none."""
    guide: GuideModel | None = None
    num_classes: int | None = Field(default=None, ge=1)
    text: TextConditions | None = None
    labels: LabelRule
    classes: tuple[int, ...] | None = None
    """The classes that the label rule chooses from; all when absent."""
    size: Size
    sampling: SamplingSettings | None = None
    settings: dict[str, Scalar | None] | None = None
    """Instead of `sampling`, of a model that brings its own sampler."""
    first_seed: int = Field(ge=0, lt=2**32)
    batch_size: int = Field(ge=1, le=65536)
    uint8_rule: Uint8Rule

    @model_validator(mode="after")
    def _one_of_each(self) -> "Plan":
        if (self.num_classes is None) == (self.text is None):
            raise ValueError("a plan has either num_classes or text")
        if (self.sampling is None) == (self.settings is None):
            raise ValueError("a plan has either sampling or settings")
        return self

    @property
    def plan_id(self) -> str:
        """SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def canonical(self) -> bytes:
        """The canonical JSON, absent fields left out so that new ones may come.

        Where a text encoder was found is left out too: its digest is there.
        """
        fields = self.model_dump(
            mode="json", exclude_none=True, exclude={"text": {"encoder": {"repo", "revision"}}}
        )
        return canonical_json(fields)

    @property
    def num_conditions(self) -> int:
        """Classes, or prompts."""
        return self.num_classes or (self.text.prompts.count if self.text else 0)

    @property
    def label_classes(self) -> tuple[int, ...]:
        """The conditions that labels are drawn from."""
        return self.classes if self.classes is not None else tuple(range(self.num_conditions))

    @property
    def has_random_weights(self) -> bool:
        """Whether the weights are random numbers: good for a try, worth nothing as a result."""
        return self.ema.startswith(RANDOM_WEIGHTS)
