"""From a preset and an invocation's options to a frozen plan; every refusal is one line.

`None` in the options means: as the preset has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from evalsuite.conditioning.classes import parse_classes
from evalsuite.config import (
    NUMERICS_VERSION,
    ExtractorSpec,
    GuideModel,
    LabelRule,
    ModelPreset,
    Plan,
    SamplingSettings,
    Scalar,
    explain,
    load_spec,
)
from evalsuite.errors import ConfigError, DataError, UsageError
from evalsuite.models.foreign import ForeignModel, Pin, foreign_model, is_foreign
from evalsuite.models.registry import ModelFamily, family_named
from evalsuite.pipeline.conditions import ResolvedText, TextRequest, resolve_text
from evalsuite.pipeline.extractor_weights import extractor_weights_sha256
from evalsuite.pipeline.foreign_weights import find_foreign_weights
from evalsuite.pipeline.labels import parse_label_rule
from evalsuite.pipeline.materials import Materials
from evalsuite.pipeline.settings import (
    check_grid,
    foreign_settings,
    native_settings,
    notices_of_solver,
)
from evalsuite.pipeline.weights import FoundWeights, WeightsRequest, find_weights
from evalsuite.seeding import REPLICATE_STRIDE, SEED_LIMIT, first_seed_of


@dataclass(frozen=True)
class GuideRequest:
    """Autoguidance: a weaker model in the place of the unconditional one."""

    weights: str
    model: str | None = None
    """Its preset; the plan's own when absent."""
    ema: str | None = None
    condition: Literal["same", "null"] = "same"


@dataclass(frozen=True)
class PlanOptions:
    """Options of an invocation that may decide pixels."""

    model: str
    weights: WeightsRequest = field(default_factory=WeightsRequest)
    guide: GuideRequest | None = None
    text: TextRequest = field(default_factory=TextRequest)
    replicate: int | None = None
    first_seed: int | None = None
    labels: str | None = None
    classes: str | None = None
    size: tuple[int, int] | None = None
    batch_size: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings that were asked, by name; absent ones are the preset's."""
    trust_code: bool = False
    """Whether code that `--model` names may be run."""


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan with what is needed to carry it out."""

    plan: Plan
    preset: ModelPreset
    materials: Materials
    notices: tuple[str, ...] = ()
    """What a person should know before it starts."""
    origin: Mapping[str, Scalar] = field(default_factory=dict)
    """Where weights, guide (`guide_...`) and text encoder (`text_encoder...`) came from."""

    @property
    def run_name(self) -> str:
        """Of the run directory that holds this plan, where nobody names another."""
        return f"{self.preset.name}-{self.plan.plan_id[:8]}"


def resolve_plan(options: PlanOptions) -> ResolvedPlan:
    """Apply the options to the preset.

    Raises:
        UsageError: an option that the model does not have, or out of range.
        DataError: weights, prompts or label file cannot be used.
    """
    foreign = _foreign(options)
    preset = foreign.preset if foreign else load_spec(ModelPreset, options.model)
    if foreign is None and is_foreign(preset.family):
        foreign = foreign_model(
            preset.family,
            preset.path.parent,
            options.trust_code,
            preset,
            offline=options.weights.offline,
            pinned=_pinned(options),
        )
    if foreign is not None:
        if foreign.code_folder is not None and options.text.negative_prompt is not None:
            raise UsageError(
                f"{foreign.preset.name} is your own class: --negative-prompt does not reach it;"
                " give it a field of its Settings"
            )
        return _resolve(options, foreign.preset, foreign)
    return _resolve(options, preset, None)


def _foreign(options: PlanOptions) -> ForeignModel | None:
    if not is_foreign(options.model):
        return None
    offline = options.weights.offline
    return foreign_model(
        options.model, Path.cwd(), options.trust_code, offline=offline, pinned=_pinned(options)
    )


def _pinned(options: PlanOptions) -> Pin | None:
    """Which commit of a pipeline's repository the lock file holds."""
    lock = options.weights.lock
    return None if lock is None else lambda repo, asked: lock.pin(repo, asked, None).revision


def _resolve(
    options: PlanOptions, preset: ModelPreset, foreign: ForeignModel | None
) -> ResolvedPlan:
    family = None if foreign else family_named(preset.family)
    size = options.size or preset.size
    if family is not None:
        _check_size(preset, family, size)
    sampling = None if foreign else native_settings(preset, options.sampling)
    rule, file_labels, classes, text = _conditions(options, preset)
    weights = (
        find_foreign_weights(foreign, options.weights)
        if foreign
        else find_weights(preset, options.weights)
    )
    guide = _guide(options, preset, sampling, size)
    try:
        plan = Plan(
            numerics_version=NUMERICS_VERSION,
            family=foreign.family if foreign else preset.family,
            network=family.resolved(preset.network) if family else preset.network,
            source_sha256=foreign.source_sha256 if foreign else None,
            weights_sha256=weights.sha256,
            ema=weights.ema,
            guide=guide.model if guide else None,
            num_classes=preset.num_classes,
            text=text.conditions if text else None,
            labels=rule,
            classes=classes,
            size=size,
            sampling=sampling,
            settings=foreign_settings(foreign, preset, options.sampling) if foreign else None,
            first_seed=_first_seed(options),
            batch_size=preset.batch_size if options.batch_size is None else options.batch_size,
            uint8_rule=preset.uint8_rule,
        )
    except ValidationError as error:
        raise ConfigError(explain(error, Plan)) from error
    if plan.sampling is not None:
        check_grid(plan.sampling)
    materials = Materials(
        weights=weights.path,
        guide=guide.weights.path if guide else None,
        encoder=text.encoder.folder if text and text.encoder else None,
        file_labels=file_labels,
        prompts=text.prompts if text else None,
        code_folder=foreign.code_folder if foreign else None,
    )
    origin = dict(weights.origin)
    if guide is not None:
        origin |= {f"guide_{key}": value for key, value in guide.weights.origin.items()}
    if text is not None and text.encoder is not None:
        origin |= text.encoder.origin
    notices = notices_of_solver(preset, options.sampling) + (text.notices if text else ())
    return ResolvedPlan(plan, preset, materials, notices, origin)


class _Chosen(NamedTuple):
    """What samples are conditioned on."""

    rule: LabelRule
    file_labels: tuple[int, ...] | None
    classes: tuple[int, ...] | None
    text: ResolvedText | None


def _conditions(options: PlanOptions, preset: ModelPreset) -> _Chosen:
    if preset.num_classes is None:
        for name in ("labels", "classes"):
            if getattr(options, name) is not None:
                raise UsageError(f"{preset.name} is a text model: --{name} is for classes")
        text = resolve_text(preset, options.text, options.weights)
        return _Chosen(LabelRule(), None, None, text)
    options.text.refuse_for(preset.name)
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
    return _Chosen(rule, file_labels, classes, None)


class _Guide(NamedTuple):
    """The guide of autoguidance."""

    model: GuideModel
    weights: FoundWeights


def _guide(
    options: PlanOptions,
    preset: ModelPreset,
    sampling: SamplingSettings | None,
    size: tuple[int, int],
) -> _Guide | None:
    """The guide, which must see what the model sees."""
    asked = options.guide
    if asked is None:
        return None
    if sampling is None:
        raise UsageError(f"{preset.name} brings its own sampler: --guide-weights does not apply")
    other = load_spec(ModelPreset, asked.model) if asked.model else preset
    if other.num_classes != preset.num_classes:
        raise UsageError(f"guide {other.name} has other classes than {preset.name}")
    if preset.text and (other.text is None or other.text.encoder != preset.text.encoder):
        raise UsageError(f"guide {other.name} has another text encoder than {preset.name}")
    family = family_named(other.family)
    if (family.prediction == "clean") != (sampling.t_eps is not None):
        raise UsageError(
            f"of guide {other.name} and {preset.name} one predicts the clean image, the other the"
            " velocity: t_eps is for both or for neither"
        )
    _check_size(other, family, size)
    request = replace(options.weights, given=asked.weights, ema=asked.ema, option="--guide-weights")
    if request.are_random and not options.weights.are_random:
        raise UsageError("--guide-weights: random ones are for trials with random --weights alone")
    found = find_weights(other, request)
    guide = GuideModel(
        family=other.family,
        network=family_named(other.family).resolved(other.network),
        weights_sha256=found.sha256,
        ema=found.ema,
        condition=asked.condition,
    )
    return _Guide(guide, found)


def _first_seed(options: PlanOptions) -> int:
    if options.replicate is not None and options.first_seed is not None:
        raise UsageError("--replicate and --first-seed exclude each other")
    if options.first_seed is not None:
        return options.first_seed
    return first_seed_of(options.replicate or 0)


def _check_size(preset: ModelPreset, family: ModelFamily, size: tuple[int, int]) -> None:
    side = family.only_size(preset.network)
    if side is not None and size != (side, side):
        raise UsageError(
            f"size {size[0]}x{size[1]}: the position embeddings of {preset.name} are for"
            f" {side}x{side} alone"
        )
    multiple = family.multiple_of(preset.network)
    if size[0] % multiple or size[1] % multiple:
        raise UsageError(f"size {size[0]}x{size[1]}: {preset.name} needs multiples of {multiple}")


def check_count(resolved: ResolvedPlan, num_samples: int, replicate: int | None) -> None:
    """Raise UsageError when `num_samples` cannot be had under the plan's seeds or labels."""
    if replicate is not None and num_samples > REPLICATE_STRIDE:
        raise UsageError(f"--replicate holds at most {REPLICATE_STRIDE} samples; use --first-seed")
    labels, batch_size = resolved.materials.file_labels, resolved.plan.batch_size
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


def with_weights(spec: ExtractorSpec, weights: Path | None) -> ExtractorSpec:
    """An extractor with the weights in a file, or in a network's folder.

    Of an extractor whose weights are published at places, or whose numbers have no prefix, it must
    hold those weights, and the extractor stays the same; any other becomes another extractor,
    named by their SHA-256.

    Raises:
        DataError: there is no such file, or it holds other weights than the published ones.
    """
    if weights is None:
        return spec
    if not weights.exists():
        raise DataError(f"--extractor-weights {weights} does not exist")
    source = spec.weights
    sha256 = extractor_weights_sha256(weights)
    update = {"file": str(weights.resolve())}
    if spec.short and not source.places:
        update["sha256"] = sha256
    elif sha256 not in source.accepted_sha256:
        known = " or ".join(sorted(source.accepted_sha256))
        raise DataError(
            f"--extractor-weights {weights} holds other weights than {spec.name} (its SHA-256 is"
            f" {sha256}, not {known}): download it again, or name it in an extractor YAML of your"
            " own"
        )
    return spec.model_copy(update={"weights": source.model_copy(update=update)})
