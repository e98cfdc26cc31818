"""Settings that are written down: guidance, its interval, the weights, beside what is claimed."""

from typing import NamedTuple

from evalsuite.config import SamplingSettings
from evalsuite.diagnosis.findings import RECORDED, CannotTell, Clear, Finding, Outcome
from evalsuite.diagnosis.material import Expected, Material
from evalsuite.diagnosis.twins import reversed_interval
from evalsuite.models.checkpoints.grouping import is_average
from evalsuite.pipeline.claims import settings_of_claim, shown

_RAW = ("raw", "denoiser", "core", "model")
"""Names of weights that are no average."""


class Guided(NamedTuple):
    """A scale and the times between which it acts; 1 is off."""

    scale: float
    interval: tuple[float, float]


def guidance_of(sampling: SamplingSettings) -> Guided:
    """As a plan or a preset has it."""
    return Guided(sampling.guidance_scale, sampling.guidance_interval)


def expected_guidance(expected: Expected) -> Guided | None:
    """As the claim states it, else as the preset has it."""
    if expected.preset.sampling is None:
        return None
    ours = guidance_of(expected.preset.sampling)
    if expected.claim is None:
        return ours
    stated = settings_of_claim(expected.claim)
    scale = ours.scale if stated.guidance_scale is None else stated.guidance_scale
    return Guided(scale, stated.guidance_interval or ours.interval)


def probe_guidance_setting(material: Material) -> Outcome:
    """Whether guidance is off, or of another scale, by the run's own plan."""
    settings = _both(material)
    if isinstance(settings, CannotTell):
        return settings
    expected, ours, theirs = settings
    if ours.scale == theirs.scale:
        return Clear(f"guidance {shown(ours.scale)}, as {expected.whose}")
    differ = (
        f"the plan has guidance_scale {shown(ours.scale)}, {expected.whose} {shown(theirs.scale)}"
    )
    advice = f"make the samples again with --guidance-scale {shown(theirs.scale)}"
    if ours.scale == 1:
        return Finding("guidance off", RECORDED, f"{differ}: 1 is off", advice)
    if not expected.given:
        return Clear(f"{differ}, which nobody claims to be its result")
    name = "guidance where the claim has none" if theirs.scale == 1 else "another guidance scale"
    return Finding(name, RECORDED, differ, advice)


def probe_interval_setting(material: Material) -> Outcome:
    """Whether the guidance interval is reversed, or another one, by the run's own plan."""
    settings = _both(material)
    if isinstance(settings, CannotTell):
        return settings
    expected, ours, theirs = settings
    if 1 in {ours.scale, theirs.scale}:
        return Clear("guidance is off, so its interval does not matter")
    if ours.interval == theirs.interval:
        return Clear(f"guidance acts on {shown(ours.interval)}, as {expected.whose}")
    differ = (
        f"the plan has guidance_interval {shown(ours.interval)}, {expected.whose}"
        f" {shown(theirs.interval)}"
    )
    advice = "make the samples again with --guidance-interval {:g} {:g}".format(*theirs.interval)
    if _close(ours.interval, reversed_interval(theirs.interval)):
        why = "that is the same interval with time running the other way (here t = 0 is noise)"
        return Finding("guidance interval reversed", RECORDED, f"{differ}: {why}", advice)
    if not expected.given:
        return Clear(f"{differ}, which nobody claims to be its result")
    return Finding("another guidance interval", RECORDED, differ, advice)


def probe_ema(material: Material) -> Outcome:
    """Whether the weights are raw ones where the claim is of averaged ones, by the run's plan."""
    plan, expected = material.plan, material.expected
    if plan is None:
        return CannotTell("which weights made these samples is not recorded: give a run")
    if expected is None:
        return CannotTell("nobody says what the weights should be: give --claim")
    wanted = expected.preset.weights.ema
    if not is_average(wanted) or is_average(plan.ema):
        return Clear(f"the weights are {plan.ema}")
    if plan.ema.partition(":")[0] not in _RAW and plan.ema not in _RAW:
        return CannotTell(f"the plan calls its weights {plan.ema!r}, which says nothing of EMA")
    return Finding(
        "raw weights instead of EMA",
        RECORDED,
        f"the plan has the weights {plan.ema!r}, which are no average; the published numbers are of"
        f" {wanted!r}",
        "make the samples again with --ema auto, or with a checkpoint that holds the average",
    )


def probe_weights(material: Material) -> Outcome:
    """Whether the weights are others than the preset pins; asked only where a claim is named."""
    plan, expected = material.plan, material.expected
    if plan is None:
        return CannotTell("which weights made these samples is not recorded: give a run")
    if expected is None or not expected.given:
        return CannotTell("nobody says what the weights should be: give --claim")
    pinned = expected.preset.weights.sha256
    if pinned is None:
        return CannotTell(f"{expected.preset.name} does not pin the digest of its weights")
    if plan.weights_sha256 == pinned:
        return Clear("the weights are those that the preset pins")
    return Finding(
        "other weights",
        RECORDED,
        f"the weights have SHA-256 {plan.weights_sha256[:12]}..., those of {expected.preset.name}"
        f" {pinned[:12]}...",
        "make the samples again without --weights, or compare with the claim of these weights",
    )


def _both(material: Material) -> tuple[Expected, Guided, Guided] | CannotTell:
    """(what is expected, the plan's guidance, the expected guidance)."""
    plan, expected = material.plan, material.expected
    if plan is None:
        return CannotTell("the settings of these samples are not recorded: give a run")
    if plan.sampling is None:
        return CannotTell("the model brings its own sampler, whose settings mean what it says")
    theirs = None if expected is None else expected_guidance(expected)
    if expected is None or theirs is None:
        return CannotTell("nobody says what guidance should be: give --claim")
    return expected, guidance_of(plan.sampling), theirs


def _close(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(abs(x - y) < 1e-6 for x, y in zip(a, b, strict=True))
