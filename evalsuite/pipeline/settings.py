"""Sampling settings from a preset and what an invocation asks for."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from evalsuite.config import ModelPreset, SamplingSettings, Scalar, explain, of_other_solver
from evalsuite.errors import ConfigError, UsageError, nearest
from evalsuite.models.foreign import ForeignModel
from evalsuite.models.registry import family_named
from evalsuite.sampling.sampler import count_nfe


def native_settings(preset: ModelPreset, asked: Mapping[str, Any]) -> SamplingSettings:
    """The preset's settings with those that were asked.

    Raises:
        UsageError: an unknown setting, a value out of range, or one that does not fit the model.
    """
    if preset.sampling is None:
        raise ConfigError(f"{preset.path}: family {preset.family!r} needs `sampling`")
    fields = preset.sampling.model_dump()
    unknown = asked.keys() - fields.keys()
    if unknown:
        name = min(unknown)
        raise UsageError(f"unknown sampling setting {name!r}: {nearest(name, fields)}")
    solver = asked.get("solver", fields["solver"])
    if solver != fields["solver"]:
        fields |= of_other_solver({"with_solver": preset.with_solver}, str(solver))
    if asked.get("order") is not None and solver != "adams":
        raise UsageError(f"--order is for solver adams; the solver is {solver}")
    try:
        settings = SamplingSettings.model_validate({**fields, **asked})
    except ValidationError as error:
        raise UsageError(explain(error, SamplingSettings)) from error
    _check_fits(preset, settings)
    return settings


def notices_of_solver(preset: ModelPreset, asked: Mapping[str, Any]) -> tuple[str, ...]:
    """A notice where another solver brings a guidance interval that nobody asked for."""
    own, solver = preset.sampling, asked.get("solver")
    brought = preset.with_solver.get(solver, {}) if solver is not None else {}
    if own is None or solver == own.solver or "guidance_interval" in asked:
        return ()
    interval = brought.get("guidance_interval", own.guidance_interval)
    if interval == own.guidance_interval or not isinstance(interval, tuple):
        return ()
    return (
        f"solver {solver} comes with the guidance interval {_words(interval)} in {preset.name}, not"
        f" {_words(own.guidance_interval)}: --guidance-interval takes another",
    )


def _words(interval: tuple[float, float]) -> str:
    return f"{interval[0]:g} {interval[1]:g}"


def _check_fits(preset: ModelPreset, settings: SamplingSettings) -> None:
    """Settings that only make sense for what the network predicts."""
    is_clean = family_named(preset.family).prediction == "clean"
    if (settings.t_eps is not None) != is_clean:
        what = "clean image and needs" if is_clean else "velocity and has no use for"
        raise UsageError(f"{preset.name} predicts the {what} t_eps")


def check_grid(settings: SamplingSettings) -> None:
    """Raise UsageError when the solver's times cannot be integrated over."""
    try:
        count_nfe(settings)
    except ValueError as error:
        raise UsageError(
            f"--num-steps {settings.num_steps}, --timeshift {settings.timeshift:g} and --last-step"
            f" {settings.last_step} do not fit: {error}"
        ) from error


def foreign_settings(
    foreign: ForeignModel, preset: ModelPreset, asked: Mapping[str, Any]
) -> dict[str, Scalar | None]:
    """Settings of a model with its own sampler: its defaults, the preset's, those asked.

    Raises:
        UsageError: a setting that its class does not have, or refuses.
    """
    kind: type[BaseModel] = foreign.settings_class
    given = {**(preset.settings or {}), **asked}
    for name in given:
        if name not in kind.model_fields:
            raise UsageError(
                f"{preset.name} has no setting {name!r}: {nearest(name, kind.model_fields)}"
            )
    try:
        settings = kind.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"{preset.name}: {explain(error, kind)}") from error
    return {key: _plain(key, value) for key, value in settings.model_dump(mode="json").items()}


def _plain(name: str, value: object) -> Scalar | None:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"setting {name!r} is no number, text or truth value: it cannot be in a plan")
