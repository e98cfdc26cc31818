"""Presets: named models and extractors, one YAML file each."""

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from evalsuite.config.base import (
    DtypeName,
    Frozen,
    Scalar,
    Sha256,
    Size,
    SolverName,
    Uint8Rule,
    canonical_json,
)
from evalsuite.config.plan import TextEncoderSpec
from evalsuite.config.sampling import SamplingSettings
from evalsuite.errors import UsageError

INCEPTION_FAMILY = "inception-2015-12-05"
INCEPTION_SHA256 = "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6"
"""Of `classify_image_graph_def.pb`, the graph of ADM's evaluator."""
_INCEPTION_PTH = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the state dict that torch-fidelity and pytorch-fid converted from it."""


class FilePlace(Frozen):
    """A file that is published at an address, with what is known of its bytes."""

    url: str
    filename: str
    sha256: Sha256 | None = None
    """None where nobody has published it: then `--allow-unverified` is needed to fetch it."""
    num_bytes: int | None = Field(default=None, ge=1)
    note: str | None = None


class WeightsSource(Frozen):
    """Where an extractor's weights are: a file beside the YAML, else the first of the places."""

    file: str | None = None
    """Relative to the YAML file; None where they are to be fetched or given."""
    sha256: Sha256 | None = None
    """Of the weights that name the extractor. Every place with a digest of its own holds the
    same weights in another container. None where the user brings the weights: what is given then
    has its own digest here, and so in `extractor_id`."""
    ema: str = "averaged"
    """Which of a checkpoint's weights these are."""
    places: tuple[FilePlace, ...] = ()

    @property
    def accepted_sha256(self) -> frozenset[str]:
        """Digests of all files that hold these weights."""
        digests = (self.sha256, *(place.sha256 for place in self.places))
        return frozenset(digest for digest in digests if digest is not None)


class WeightsPlace(Frozen):
    """One place where a model's weights are published."""

    repo: str
    """Hub repository."""
    filename: str
    layout: Literal["lightning", "diffusers", "state_dict"]
    revision: str | None = None
    """Commit; the newest is looked up and recorded when absent."""
    sha256: Sha256 | None = None
    note: str | None = None


class ModelWeights(Frozen):
    """Where a model's weights are: a file, else the first of the places."""

    file: str | None = None
    """Relative to the YAML file."""
    sha256: Sha256 | None = None
    ema: str = "averaged"
    """Which of a checkpoint's weights the published numbers are of."""
    places: tuple[WeightsPlace, ...] = ()
    note: str | None = None
    """Where else they are, or why they are nowhere."""


class EvaluationDefaults(Frozen):
    """What `run` makes and scores against when nothing else is asked."""

    num_samples: int = Field(ge=1, le=10**9)
    reference: str | None = None
    extractor: str | None = None
    protocol: str | None = None
    """Name of the protocol that the published numbers follow."""


class PublishedResult(Frozen):
    """A figure as someone published it: a claim, never a result of ours."""

    source: str
    note: str | None = None
    fid: float | None = None
    sfid: float | None = None
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None
    geneval: float | None = None
    dpg: float | None = None
    protocol: str | None = None
    setting: str | None = None
    """Sampler, steps and guidance behind it, as far as they are stated."""


class TextPreset(Frozen):
    """What a text model needs beside its network."""

    encoder: TextEncoderSpec
    folder: str | None = None
    """Of an encoder that comes with the preset, relative to the YAML file; else it is the hub's."""
    instruction_lines: int = Field(default=0, ge=0)
    """Lines that the authors put before every positive prompt. Where their licence keeps the text
    out of this package, `encoder.instruction` is empty and the user's own preset gives it."""
    negative_prompt: str = ""
    shared_seeds: bool = False
    """Whether the published figures are of a few noises that all prompts share."""
    prompts: str | None = None
    """Prompts for a first look, relative to the YAML file."""

    @property
    def lacks_instruction(self) -> bool:
        """Whether the authors' instruction is missing, so that the model cannot run as theirs."""
        return self.instruction_lines > 0 and not self.encoder.instruction


class KnownRate(Frozen):
    """A measured speed, to estimate time before anything has run."""

    device: str
    seconds_per_evaluation: float = Field(gt=0)
    """Seconds of one worker for one network evaluation of one image."""
    source: str


class ModelPreset(Frozen):
    """A named model: architecture, weights, default sampling, evaluation, published results."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    description: str
    family: str
    licence: str
    """Of the weights, in one word where there is one."""
    licence_note: str | None = None
    network: dict[str, Scalar] = Field(default_factory=dict)
    parameters: int | None = None
    """Of the network, stored values counted once."""
    weights: ModelWeights = ModelWeights()
    num_classes: int | None = Field(default=None, ge=1)
    class_names: tuple[str, ...] | Literal["imagenet-1k"] | None = None
    text: TextPreset | None = None
    size: Size
    sampling: SamplingSettings | None = None
    settings: dict[str, Scalar | None] | None = None
    """Of a model that brings its own sampler; absent ones are its own defaults."""
    with_solver: dict[SolverName, dict[str, Scalar | tuple[float, float] | None]] = Field(
        default_factory=dict
    )
    """Settings that come with another solver than the preset's, as the original program has it."""
    settings_are: Literal["published", "inferred", "own"] = "own"
    sources: dict[str, str] = Field(default_factory=dict)
    """Where settings come from, by their names."""
    batch_size: int = Field(ge=1, le=65536)
    uint8_rule: Uint8Rule = "half_up"
    evaluation: EvaluationDefaults
    known_rates: tuple[KnownRate, ...] = ()
    published: tuple[PublishedResult, ...] = ()
    card: str | None = None
    path: Path = Field(exclude=True)
    """The file that this was read from."""


class ExtractorSpec(Frozen):
    """A named extractor: family, weights and the fields that decide its features."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    short: str
    """Prefix of metric names in tables, so that no number is mistaken for another's. Empty for
    the pinned Inception in float32 alone, whose numbers are what everyone calls FID."""
    family: str
    version: int = Field(ge=1)
    weights: WeightsSource
    input_size: Size | None = None
    """The only size that it takes; any when absent."""
    resize: str
    precision: DtypeName = "float32"
    """Of the network's convolutions; bfloat16 is faster, inexact, and another extractor."""
    default_protocol: str
    """Name of the protocol that its numbers follow when none is asked."""
    batch_size: int = Field(ge=1, le=65536)
    pool_dim: int = Field(ge=1)
    spatial_dim: int | None = None
    num_classes: int | None = None
    licence: str
    card: str | None = None
    path: Path = Field(exclude=True)

    @model_validator(mode="after")
    def _is_named_for_what_it_is(self) -> Self:
        accepted, inception = self.weights.accepted_sha256, {INCEPTION_SHA256, _INCEPTION_PTH}
        if self.weights.sha256 == INCEPTION_SHA256 and not accepted <= inception:
            other = min(accepted - inception)
            raise ValueError(f"weights: {other} is no known file of {INCEPTION_FAMILY}'s weights")
        plain = (self.weights.sha256, self.precision) == (INCEPTION_SHA256, "float32")
        if not (self.short or (self.family == INCEPTION_FAMILY and plain)):
            raise ValueError(
                "short must not be empty: it keeps this extractor's numbers apart from those of"
                f" {INCEPTION_FAMILY}, which alone are called FID; give a prefix such as 'mine-'"
            )
        return self

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights.

        Raises:
            UsageError: the user brings the weights of this extractor, and they were not given.
        """
        if self.weights.sha256 is None:
            raise UsageError(f"extractor {self.name}: give its weights with --extractor-weights")
        return self.weights.sha256

    @property
    def extractor_id(self) -> str:
        """Name and the hash of all that decides features."""
        fields = self.model_dump(
            mode="json",
            include={"family", "version", "resize", "precision", "batch_size", "input_size"},
        )
        digest = hashlib.sha256(canonical_json({**fields, "weights": self.weights.sha256}))
        return f"{self.name}-{digest.hexdigest()[:8]}"
