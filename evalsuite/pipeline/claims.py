"""A number of ours beside a published claim: the difference, the band, and what differs.

A claim has an error of its own, as large as ours, which nobody published.
"""

import functools
import math
from collections import Counter
from typing import NamedTuple

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import (
    Claim,
    ModelPreset,
    Plan,
    SamplingSettings,
    load_spec,
    names_of,
)
from evalsuite.models.checkpoints.grouping import is_average
from evalsuite.pipeline.comparison import Z_95
from evalsuite.pipeline.comparison_words import RETRAINING_PERCENT
from evalsuite.pipeline.registered import is_by_protocol
from evalsuite.sampling.sampler import count_nfe
from evalsuite.seeding import first_are_mixed

_AVERAGED = "averaged"
"""What presets call the average where a file holds nothing else."""


class Settings(NamedTuple):
    """What tables and claims say of how samples were made; None where it is not known.

    Attributes:
        resolution: height of the images.
        params_m: parameters in millions.
        nfe: evaluations along the solver, a guided pair counted once, as papers do.
        guidance_scale: 1 is off.
        guidance_interval: (low, high).
        timeshift: of the solver's times.
        solver: its name.
    """

    resolution: int | None = None
    params_m: float | None = None
    nfe: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    timeshift: float | None = None
    solver: str | None = None


class ClassCounts(NamedTuple):
    """Samples of the class that has the fewest, and of the one that has the most."""

    fewest: int
    most: int


class Reproduction(NamedTuple):
    """One metric of a record beside one claim.

    Attributes:
        claim: what was published.
        record: what was measured.
        claimed: the claim's figure.
        difference: record - claim; None when the record is undefined.
        in_errors: the difference in its standard errors, sqrt(2) of the record's.
        band: half width of the claim's band, the least that it can be where the record has no
            standard error; None when there is none to give.
        obstacles: why there is no verdict: what is known to differ in protocols or checkpoints.
        differing: settings that are known to differ.
        unstated: what the claim, or the preset of its weights, does not give.
    """

    claim: Claim
    record: Record
    claimed: float
    difference: float | None
    in_errors: float | None
    band: float | None
    obstacles: tuple[str, ...]
    differing: tuple[str, ...]
    unstated: tuple[str, ...]

    @property
    def inside(self) -> bool | None:
        """Whether the record is in the claim's band; None when that cannot be said."""
        if self.obstacles or self.band is None or self.difference is None:
            return None
        return abs(self.difference) <= self.band

    @property
    def verdict(self) -> str:
        """`inside`, `outside` or `no verdict`."""
        return {True: "inside", False: "outside", None: "no verdict"}[self.inside]


def settings_of(plan: Plan | None, model: str | None) -> Settings:
    """The settings of a plan, and the parameters of a shipped model."""
    if plan is None:
        return Settings()
    shipped = _shipped(model)
    params = shipped.parameters if shipped else None
    settings = Settings(plan.size[0], None if params is None else params / 1e6)
    sampling = plan.sampling
    if sampling is None:
        return settings
    return settings._replace(
        nfe=_evaluations(sampling),
        guidance_scale=sampling.guidance_scale,
        guidance_interval=sampling.guidance_interval,
        timeshift=sampling.timeshift,
        solver=f"{sampling.solver}{sampling.order or ''}",
    )


@functools.cache
def _shipped(model: str | None) -> ModelPreset | None:
    """A shipped model; its file is read once."""
    return load_spec(ModelPreset, model) if model in names_of(ModelPreset) else None


@functools.lru_cache(maxsize=512)
def _evaluations(sampling: SamplingSettings) -> int:
    """Along the solver, a guided pair counted once."""
    return count_nfe(sampling.model_copy(update={"guidance_scale": 1.0, "skip_unguided": True}))


def settings_of_claim(claim: Claim) -> Settings:
    """The settings that a claim states as numbers."""
    return Settings(
        resolution=claim.resolution,
        params_m=claim.params_m,
        nfe=claim.nfe,
        guidance_scale=claim.guidance_scale,
        guidance_interval=_interval(claim.guidance_interval),
        timeshift=claim.timeshift,
    )


def beside_claim(
    record: Record,
    plan: Plan | None,
    model: str | None,
    claim: Claim,
    preset: ModelPreset | None = None,
    counts: ClassCounts | None = None,
) -> Reproduction | None:
    """A record beside a claim; None when the claim says nothing of its metric.

    The band is the larger of 1.3 % of the claim (what another training seed gives) and 1.96 sqrt(2)
    standard errors, and there is one for FID alone: of no other metric has the first been measured.
    Where the second is unknown, the first says who is inside, and nobody is known to be outside.

    Args:
        record: what was measured.
        plan: what made its samples, where that is known.
        model: of the plan.
        claim: what was published.
        preset: of the claim's weights; the shipped one by default.
        counts: of the classes in the samples, where their labels are of a file that is known.
    """
    claimed = claim.figure(record.metric)
    if claimed is None:
        return None
    difference = None if record.value is None else record.value - claimed
    error = None if record.standard_error is None else math.sqrt(2) * record.standard_error
    in_errors = difference / error if difference is not None and error else None
    beside = [
        _settings_beside(settings_of(plan, model), settings_of_claim(claim)),
        _checkpoint_beside(claim),
    ]
    if plan is not None:
        beside.append(_sources_beside(plan, claim, preset or _shipped(claim.preset)))
    return Reproduction(
        claim=claim,
        record=record,
        claimed=claimed,
        difference=difference,
        in_errors=in_errors,
        band=_band(record, claimed),
        obstacles=(*_obstacles(record, plan, claim, counts), *_obstacles_of_band(record, claimed)),
        differing=tuple(text for differing, _ in beside for text in differing),
        unstated=tuple(text for _, unstated in beside for text in unstated),
    )


def _band(record: Record, claimed: float) -> float | None:
    if record.metric != "fid":
        return None
    sampling = Z_95 * math.sqrt(2) * (record.standard_error or 0.0)
    return max(RETRAINING_PERCENT / 100 * claimed, sampling)


def _obstacles_of_band(record: Record, claimed: float) -> list[str]:
    """A gap of which only an unknown standard error could say that it is too wide."""
    band = _band(record, claimed)
    if band is None or record.value is None or record.standard_error is not None:
        return []
    wide = f"no standard error is known, and the gap is over {RETRAINING_PERCENT} % of the claim"
    return [wide] if abs(record.value - claimed) > band else []


def _obstacles(
    record: Record, plan: Plan | None, claim: Claim, counts: ClassCounts | None
) -> list[str]:
    """What is known to differ in checkpoint or protocol, or is too little known to compare."""
    found = []
    if claim.checkpoint == "other":
        found.append(f"the claim is of another checkpoint than the released one of {claim.preset}")
    if record.value is None:
        found.append("the value is undefined")
    if record.protocol.num_samples != claim.num_samples:
        found.append(
            f"N is {record.protocol.num_samples:,}, the claim's {claim.num_samples:,}: the bias of"
            " a finite N does not cancel"
        )
    name = claim.protocol_of(record.metric)
    if name is None:
        found.append(f"the claim's protocol ({claim.protocol}) is none that is known here")
    elif not is_by_protocol(record, name):
        ours = record.protocol_name or record.protocol_id
        found.append(
            f"the claim is by protocol {name}, this number by {ours} against"
            f" {record.reference or 'no reference'}"
        )
    if plan is not None and plan.size != (claim.resolution, claim.resolution):
        side = claim.resolution
        found.append(f"images are {plan.size[0]} x {plan.size[1]}, the claim's {side} x {side}")
    return [*found, *_obstacles_of_labels(record, plan, claim, counts)]


def _obstacles_of_labels(
    record: Record, plan: Plan | None, claim: Claim, counts: ClassCounts | None
) -> list[str]:
    """Classes that were chosen, and rules that give other numbers of each class."""
    stated = record.protocol.label_rule or record.declared.get("label_rule")
    rule, chosen = (stated or "").partition(" of ")[::2]
    if plan is not None and plan.classes is not None:
        chosen = f"{len(plan.classes)} of {plan.num_conditions}"
    found = []
    if chosen:
        found.append(f"the samples are of chosen classes ({chosen}), the claim of all")
    if not rule:
        return found
    kind = rule.partition(":")[0]
    if kind == "file":
        found += _obstacles_of_file(rule, claim, counts)
    elif contradicts(rule, claim):
        found.append(
            f"labels are {rule}, the claim's {claim.label_rule}: that alone is about 0.1 FID"
        )
    elif _family(rule) not in {"balanced", "random"}:
        found.append(f"labels are {rule}; claims are of balanced or random ones")
    count = record.protocol.num_samples
    if kind == "blocked" and plan is not None and not first_are_mixed(plan, count):
        found.append(f"labels are {rule}, which gives {count:,} samples uneven classes")
    return found


def _obstacles_of_file(rule: str, claim: Claim, counts: ClassCounts | None) -> list[str]:
    """What the labels of a file forbid: they are of the kind that their counts say."""
    if counts is None:
        return [f"labels are {rule}, whose counts are not known; claims are of balanced or random"]
    if counts.most - counts.fewest > 1:
        span = f"{counts.fewest:,} to {counts.most:,} of a class"
        return [f"labels are {rule}, {span}; claims are of balanced or random ones"]
    if claim.label_rule == "random":
        return [
            f"labels are {rule}, which are balanced, the claim's random: that alone is about 0.1"
            " FID"
        ]
    return []


def class_counts(run: RunDirectory, num_samples: int) -> ClassCounts | None:
    """How many samples the classes of a run have; None where its labels are of no file it keeps."""
    labels = run.manifest.file_labels
    if run.plan.labels.rule != "file" or labels is None or len(labels) < num_samples:
        return None
    found = Counter(labels[:num_samples])
    each = [found[one] for one in run.plan.label_classes]
    return ClassCounts(min(each), max(each))


def contradicts(rule: str | None, claim: Claim) -> bool:
    """Whether a label rule is known to be of another kind than a claim's; a file may be of any."""
    kind = _family(rule or "file")
    return kind != "file" and claim.label_rule not in {None, kind}


def _family(rule: str) -> str:
    kind = rule.partition(" of ")[0].partition(":")[0]
    return {"modulo": "balanced", "blocked": "balanced"}.get(kind, kind)


def _checkpoint_beside(claim: Claim) -> tuple[list[str], list[str]]:
    """(what differs, what nobody states) of the checkpoint that was published about."""
    if claim.checkpoint == "unreleased":
        return ["weights: those of the claim were never released"], []
    return [], [] if claim.checkpoint else ["checkpoint"]


def _sources_beside(
    plan: Plan, claim: Claim, preset: ModelPreset | None
) -> tuple[list[str], list[str]]:
    """(what differs, what nobody states) of weights, guide and labels."""
    differing, unstated = [], []
    pinned = preset.weights.sha256 if preset else None
    if pinned is None:
        unstated.append("weights_sha256")
    elif plan.weights_sha256 != pinned:
        differing.append(f"weights: SHA-256 {plan.weights_sha256[:12]}, the preset's {pinned[:12]}")
    if preset is not None and not _same_average(plan.ema, preset.weights.ema):
        differing.append(f"ema: {plan.ema}, the preset's {preset.weights.ema}")
    is_guided = plan.guide is not None
    if is_guided != ("autoguidance" in f"{claim.guidance} {claim.model}"):
        ours = "a weaker model" if is_guided else "none"
        differing.append(f"guide: {ours}, the claim's {'none' if is_guided else 'a weaker model'}")
    if claim.label_rule is None and plan.text is None:
        unstated.append("labels")
    if plan.labels.rule == "blocked":
        differing.append(
            f"labels: {plan.labels.describe()}, in runs of a class, which an Inception Score over"
            " consecutive splits counts"
        )
    return differing, unstated


def _same_average(ours: str, wanted: str) -> bool:
    """Whether two names may mean the same weights: files name the one average differently."""
    both = is_average(ours) and is_average(wanted)
    return ours == wanted or (both and _AVERAGED in {ours, wanted})


def _settings_beside(ours: Settings, theirs: Settings) -> tuple[list[str], list[str]]:
    """(what differs, what the claim does not state), of settings that decide pixels."""
    differing, unstated = [], []
    for field in ("nfe", "guidance_scale", "guidance_interval", "timeshift"):
        mine, claimed = getattr(ours, field), getattr(theirs, field)
        if field == "guidance_interval" and theirs.guidance_scale == 1:
            continue
        if claimed is None:
            unstated.append(field)
        elif mine is not None and mine != claimed:
            differing.append(f"{field}: {shown(mine)}, the claim's {shown(claimed)}")
    return differing, unstated


def shown(value: object) -> str:
    """A setting as text: `2.25`, `0.1..0.9`."""
    if isinstance(value, tuple):
        return "..".join(f"{number:g}" for number in value)
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def guidance_text(settings: Settings, claim: Claim | None = None) -> str:
    """`3.5 on 0.1..1`, `off`, or the claim's own words."""
    if settings.guidance_scale is None:
        return (claim.guidance or "") if claim else ""
    if settings.guidance_scale == 1:
        return "off"
    interval = settings.guidance_interval
    words = claim.guidance_interval if claim else None
    part = shown(interval) if interval else words or ""
    return f"{settings.guidance_scale:g}" + (f" on {part}" if part else "")


def changed_settings(plan: Plan, preset: ModelPreset) -> list[str]:
    """Settings of a plan that are not the published ones of its preset, with both values."""
    if plan.sampling is None or preset.sampling is None:
        return []
    published = preset.sampling.model_dump()
    return [
        f"{field}: {shown(value)}, the preset's {shown(published[field])}"
        for field, value in plan.sampling.model_dump().items()
        if value != published[field]
    ]


def _interval(text: str | None) -> tuple[float, float] | None:
    """(0.1, 1.0) of `0.1-1.0`; None of words."""
    if text == "full":
        return 0.0, 1.0
    low, dash, high = (text or "").partition("-")
    try:
        return (float(low), float(high)) if dash else None
    except ValueError:
        return None
