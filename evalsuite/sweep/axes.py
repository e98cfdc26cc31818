"""Axes of a sweep: their names, every combination of their values, and what each asks of a plan."""

import glob
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from evalsuite.config import AxisValue, ModelPreset, SamplingSettings, Scalar, load_spec
from evalsuite.errors import UsageError, nearest
from evalsuite.models.foreign import is_foreign
from evalsuite.pipeline.plan import GuideRequest, PlanOptions
from evalsuite.sweep.values import check_distinct, parse_values, shown

Setting = Mapping[str, Scalar | tuple[Scalar, ...]]
"""Options of one configuration, by their names."""
MOST_CONFIGURATIONS = 10_000
GUIDE_AXES = ("guide_weights", "guide_model", "guide_ema", "guide_condition")
PLAN_AXES = ("weights", "ema", "batch_size", "negative_prompt", *GUIDE_AXES)
"""What may be an axis besides the sampler's settings."""
_SEEDS = ("replicate", "first_seed")
_CONDITIONS = ("labels", "classes", "size", "prompts", "prompt")
_WILD = re.compile(r"[*?\[]")


class Configuration(NamedTuple):
    """One point of a sweep.

    Attributes:
        name: the values in which configurations differ: `guidance_scale=1.5, timeshift=2`.
        setting: every option that an axis gives.
    """

    name: str
    setting: Setting


def axes_of(
    given: Mapping[str, str | Sequence[AxisValue]], model: str
) -> dict[str, tuple[AxisValue, ...]]:
    """Axes with their values, texts parsed and globs of weights expanded.

    Raises:
        UsageError: a name that is no setting of the model, or values that are none.
    """
    axes: dict[str, tuple[AxisValue, ...]] = {}
    known = known_axes(model)
    for name, values in given.items():
        if isinstance(values, str):
            _check_name(name, known)
            found = parse_values(name, values)
        else:
            found = tuple(values)
        check_distinct(name, found)
        names = {key for value in found if isinstance(value, dict) for key in value}
        if not all(isinstance(value, dict) for value in found):
            names.add(name)
        for key in sorted(names):
            _check_name(key, known)
        axes[name] = _expanded(found) if name == "weights" else found
    return axes


def known_axes(model: str) -> tuple[str, ...] | None:
    """Names that may be an axis; None of a model that brings its own settings, which checks them.

    Raises:
        UsageError: no such model.
    """
    if is_foreign(model) or is_foreign(load_spec(ModelPreset, model).family):
        return None
    return (*SamplingSettings.model_fields, *PLAN_AXES)


def _check_name(name: str, known: tuple[str, ...] | None) -> None:
    if name in _SEEDS:
        raise UsageError(f"{name} is no axis: all configurations of a sweep share their seeds")
    if name in _CONDITIONS:
        raise UsageError(
            f"{name} is no axis: it changes what the samples are of, and such numbers are not"
            " ranked: make one sweep for each"
        )
    if known is not None and name not in known:
        raise UsageError(f"the model has no setting {name!r} to be an axis: {nearest(name, known)}")


def _expanded(values: tuple[AxisValue, ...]) -> tuple[AxisValue, ...]:
    """Weights with every glob replaced by the files that it names, steps in their order."""
    found: list[AxisValue] = []
    for value in values:
        if isinstance(value, str) and "://" not in value and _WILD.search(value):
            files = sorted(glob.glob(value), key=_by_step)  # noqa: PTH207 - the pattern may be absolute
            if not files:
                raise UsageError(f"--weights {value!r} matches no file")
            found += files
        else:
            found.append(value)
    check_distinct("weights", found)
    return tuple(found)


def _by_step(path: str) -> list[tuple[int, int, str]]:
    """Numbers in a name by their size: step_2 before step_10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", path)
    ]


def combinations(axes: Mapping[str, tuple[AxisValue, ...]]) -> list[Configuration]:
    """Every combination of the axes' values, the last axis changing first.

    Raises:
        UsageError: there are too many, or two axes give the same setting.
    """
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_CONFIGURATIONS:
        raise UsageError(f"the axes make {count} configurations, more than {MOST_CONFIGURATIONS}")
    return [_configuration(axes, point) for point in itertools.product(*axes.values())]


def _configuration(
    axes: Mapping[str, tuple[AxisValue, ...]], point: Sequence[AxisValue]
) -> Configuration:
    setting: dict[str, Scalar | tuple[Scalar, ...]] = {}
    words = []
    for (name, values), value in zip(axes.items(), point, strict=True):
        parts = value if isinstance(value, dict) else {name: value}
        for key, part in parts.items():
            if key in setting:
                raise UsageError(f"axis {name!r} gives {key}, which another axis gives too")
            setting[key] = part
        if len(values) > 1:
            words.append(shown(value) if isinstance(value, dict) else f"{name}={shown(value)}")
    return Configuration(", ".join(words) or "as asked", setting)


def options_with(base: PlanOptions, setting: Setting) -> PlanOptions:
    """The options of one configuration.

    Args:
        base: what all configurations share.
        setting: what this one has of its own.

    Raises:
        UsageError: a guide's setting without a guide, or a value of another kind.
    """
    own: dict[str, Any] = {k: v for k, v in setting.items() if k not in PLAN_AXES}
    weights = base.weights
    if "weights" in setting:
        weights = replace(weights, given=str(setting["weights"]))
    if "ema" in setting:
        weights = replace(weights, ema=str(setting["ema"]))
    text, batch_size = base.text, base.batch_size
    if "negative_prompt" in setting:
        text = replace(text, negative_prompt=str(setting["negative_prompt"]))
    if "batch_size" in setting:
        batch_size = _whole("batch_size", setting["batch_size"])
    return replace(
        base,
        sampling={**base.sampling, **own},
        weights=weights,
        text=text,
        batch_size=batch_size,
        guide=_guide(base.guide, setting),
    )


def _guide(base: GuideRequest | None, setting: Setting) -> GuideRequest | None:
    own: dict[str, Any] = {
        name.removeprefix("guide_"): str(setting[name]) for name in GUIDE_AXES if name in setting
    }
    if not own:
        return base
    if base is None and "weights" not in own:
        raise UsageError(f"guide_{min(own)} is an axis: it needs --guide-weights")
    guide = replace(base, **own) if base else GuideRequest(**own)
    if guide.condition not in {"same", "null"}:
        raise UsageError(f"guide_condition must be same or null, not {guide.condition!r}")
    return guide


def _whole(name: str, value: Scalar | tuple[Scalar, ...]) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise UsageError(f"{name} must be a whole number above 0, not {value!r}")
