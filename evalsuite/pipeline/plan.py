"""From a preset and an invocation's options to a frozen plan; every refusal is one line.

`None` in the options means: as the preset has it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from evalsuite.artifacts.storage import file_sha256
from evalsuite.conditioning.classes import check_label, parse_classes
from evalsuite.config import (
    NUMERICS_VERSION,
    ExtractorSpec,
    LabelRule,
    ModelPreset,
    Plan,
    SamplingSettings,
    explain,
    load_spec,
)
from evalsuite.errors import ConfigError, DataError, UsageError, nearest
from evalsuite.models.registry import family_named
from evalsuite.sampling.sampler import count_nfe
from evalsuite.seeding import REPLICATE_STRIDE, SEED_LIMIT, first_seed_of


@dataclass(frozen=True)
class PlanOptions:
    """Options of an invocation that may decide pixels."""

    model: str
    weights: Path | None = None
    replicate: int | None = None
    first_seed: int | None = None
    labels: str | None = None
    classes: str | None = None
    size: tuple[int, int] | None = None
    batch_size: int | None = None
    negative_prompt: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of SamplingSettings that were asked; absent ones are the preset's."""


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan with what is needed to carry it out."""

    plan: Plan
    preset: ModelPreset
    weights_path: Path
    file_labels: tuple[int, ...] | None


def resolve_plan(options: PlanOptions) -> ResolvedPlan:
    """Apply the options to the preset.

    Raises:
        UsageError: an option that the model does not have, or out of range.
        DataError: weights or label file cannot be used.
    """
    preset = load_spec(ModelPreset, options.model)
    if options.negative_prompt is not None:
        raise UsageError(
            f"{preset.name} is class-conditional: --negative-prompt is for text models"
        )
    weights_path, weights_sha256, ema = _weights(preset, options.weights)
    if preset.network.get("num_classes", preset.num_classes) != preset.num_classes:
        raise ConfigError(f"{preset.path}: num_classes and network.num_classes differ")
    rule, file_labels = parse_label_rule(options.labels, preset.num_classes)
    classes = (
        parse_classes(options.classes, preset.num_classes, preset.class_names)
        if options.classes is not None
        else None
    )
    if classes == tuple(range(preset.num_classes)):
        classes = None  # all of them, in order: the same plan
    if classes is not None and rule.rule == "file":
        raise UsageError(
            "--classes and --labels file:PATH exclude each other: the file has the labels"
        )
    size = options.size or preset.size
    _check_size(preset, size)
    try:
        plan = Plan(
            numerics_version=NUMERICS_VERSION,
            family=preset.family,
            network=preset.network,
            weights_sha256=weights_sha256,
            ema=ema,
            num_classes=preset.num_classes,
            labels=rule,
            classes=classes,
            size=size,
            sampling=_sampling(preset.sampling, options.sampling),
            first_seed=_first_seed(options),
            batch_size=preset.batch_size if options.batch_size is None else options.batch_size,
            uint8_rule=preset.uint8_rule,
        )
    except ValidationError as error:
        raise ConfigError(explain(error, Plan)) from error
    _check_grid(plan.sampling)
    return ResolvedPlan(plan, preset, weights_path, file_labels)


def _check_grid(settings: SamplingSettings) -> None:
    """Raise UsageError when the solver's times cannot be integrated over."""
    try:
        count_nfe(settings)
    except ValueError as error:
        raise UsageError(
            f"--num-steps {settings.num_steps}, --timeshift {settings.timeshift:g} and --last-step"
            f" {settings.last_step} do not fit: {error}"
        ) from error


def check_count(resolved: ResolvedPlan, num_samples: int, replicate: int | None) -> None:
    """Raise UsageError when `num_samples` cannot be had under the plan's seeds or labels."""
    if replicate is not None and num_samples > REPLICATE_STRIDE:
        raise UsageError(f"--replicate holds at most {REPLICATE_STRIDE} samples; use --first-seed")
    labels, batch_size = resolved.file_labels, resolved.plan.batch_size
    needed = -(-num_samples // batch_size) * batch_size
    if resolved.plan.first_seed + needed > SEED_LIMIT:
        raise UsageError(
            f"seeds {resolved.plan.first_seed}..{resolved.plan.first_seed + needed - 1} pass 2^32,"
            " where torch's generator repeats: lower --num-samples, --first-seed or --replicate"
        )
    if labels is not None and len(labels) < needed:
        raise UsageError(
            f"the label file has {len(labels)} labels; {num_samples} samples in whole batches of"
            f" {batch_size} need {needed}"
        )


def parse_label_rule(
    text: str | None, num_classes: int
) -> tuple[LabelRule, tuple[int, ...] | None]:
    """`modulo`, `blocked:PER_CLASS`, `random:SEED` or `file:PATH`, with the labels of a file.

    Raises:
        UsageError: another rule, or a number that is none.
        DataError: the file cannot be read, or a label is out of range.
    """
    name, colon, value = ("modulo" if text is None else text).partition(":")
    fields = {"blocked": "per_class", "random": "seed"}
    if name == "modulo" and not colon:
        return LabelRule(), None
    if name == "file" and value:
        labels = _read_labels(Path(value), num_classes)
        return LabelRule(rule="file", sha256=labels_sha256(labels)), labels
    if name in fields and value.isdecimal() and (name == "random" or int(value) > 0):
        try:
            return LabelRule.model_validate({"rule": name, fields[name]: int(value)}), None
        except ValidationError as error:
            raise UsageError(f"label rule {text!r}: {explain(error, LabelRule)}") from error
    raise UsageError(
        f"label rule {text!r} is not modulo, blocked:PER_CLASS, random:SEED or file:PATH"
        + (
            ""
            if name in {*fields, "file", "modulo"}
            else f"; {nearest(name, [*fields, 'file', 'modulo'])}"
        )
    )


def labels_sha256(labels: tuple[int, ...]) -> str:
    """SHA-256 of labels as little-endian int64."""
    return hashlib.sha256(np.array(labels, dtype="<i8").tobytes()).hexdigest()


def with_weights(spec: ExtractorSpec, weights: Path | None) -> ExtractorSpec:
    """An extractor with other weights, named by their SHA-256."""
    if weights is None:
        return spec
    if not weights.is_file():
        raise DataError(f"--extractor-weights {weights} does not exist")
    source = spec.weights.model_copy(
        update={"file": str(weights.resolve()), "sha256": file_sha256(weights)}
    )
    return spec.model_copy(update={"weights": source})


def _weights(preset: ModelPreset, given: Path | None) -> tuple[Path, str, str]:
    """Path, SHA-256 and EMA choice; a file that is the preset's own gives the preset's plan."""
    if given is None:
        return preset.path.parent / preset.weights.file, preset.weights.sha256, preset.weights.ema
    if not given.is_file():
        raise DataError(f"--weights {given} does not exist")
    sha256 = file_sha256(given)
    return (
        given.resolve(),
        sha256,
        preset.weights.ema if sha256 == preset.weights.sha256 else "given",
    )


def _sampling(defaults: SamplingSettings, asked: Mapping[str, Any]) -> SamplingSettings:
    fields = defaults.model_dump()
    unknown = asked.keys() - fields.keys()
    if unknown:
        name = min(unknown)
        raise UsageError(f"unknown sampling setting {name!r}: {nearest(name, fields)}")
    solver = asked.get("solver", fields["solver"])
    if solver != fields["solver"]:
        fields |= {"order": 2 if solver == "adams" else None, "step": "ode"}
    if asked.get("order") is not None and solver != "adams":
        raise UsageError(f"--order is for solver adams; the solver is {solver}")
    try:
        return SamplingSettings.model_validate({**fields, **asked})
    except ValidationError as error:
        raise UsageError(explain(error, SamplingSettings)) from error


def _first_seed(options: PlanOptions) -> int:
    if options.replicate is not None and options.first_seed is not None:
        raise UsageError("--replicate and --first-seed exclude each other")
    if options.first_seed is not None:
        return options.first_seed
    return first_seed_of(options.replicate or 0)


def _check_size(preset: ModelPreset, size: tuple[int, int]) -> None:
    multiple = family_named(preset.family).multiple_of(preset.network)
    if size[0] % multiple or size[1] % multiple:
        raise UsageError(f"size {size[0]}x{size[1]}: {preset.name} needs multiples of {multiple}")


def _read_labels(path: Path, num_classes: int) -> tuple[int, ...]:
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
        labels = tuple(int(word) for word in words)
    except (OSError, ValueError) as error:
        raise DataError(
            f"label file {path}: {error}: give whole numbers, one for each sample"
        ) from error
    if not labels:
        raise DataError(f"label file {path} holds no labels")
    for label in labels:
        check_label(label, num_classes)
    return labels
