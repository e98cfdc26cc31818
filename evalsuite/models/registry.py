"""The model families that evalsuite can build. A new family is one line here and one folder."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from evalsuite.config import Scalar
from evalsuite.errors import ConfigError, nearest
from evalsuite.models.protocol import Condition

LARGEST_SIZE = 10**6
MOST_BLOCKS = 10_000
"""Sizes far beyond any network: building one of them would not end, or overflow."""
Prediction = Literal["velocity", "clean", "reversed_velocity"]


@dataclass(frozen=True)
class ModelFamily:
    """A denoiser architecture.

    Attributes:
        load: the configuration dataclass and the network class, imported when they are needed.
        condition: what the network takes beside x and t: labels, or text features.
        prediction: what it gives. velocity: data - noise. clean: the clean image, which the
            setting `t_eps` turns into a velocity. reversed_velocity: noise - data, at the time
            1000 (1 - t).
    """

    load: Callable[[], tuple[type[Any], Callable[[Any], nn.Module]]]
    condition: Condition = "class"
    prediction: Prediction = "velocity"

    def config(self, network: Mapping[str, Scalar]) -> Any:  # noqa: ANN401 - a family's dataclass
        """The checked configuration from the `network` mapping of a preset.

        Raises:
            ConfigError: an unknown, missing or impossible value.
        """
        return _typed(self.load()[0], network)

    def resolved(self, network: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The configuration in full, so that a default that is spelt out is the same plan."""
        fields = dataclasses.asdict(self.config(network))
        return {name: value for name, value in fields.items() if value is not None}

    def build(self, network: Mapping[str, Scalar]) -> nn.Module:
        """The network on the current torch device."""
        return self.load()[1](self.config(network))

    def multiple_of(self, network: Mapping[str, Scalar]) -> int:
        """What image height and width must be multiples of."""
        config = self.config(network)
        return int(getattr(config, "multiple_of", config.patch_size))

    def only_size(self, network: Mapping[str, Scalar]) -> int | None:
        """The one side that stored position embeddings allow; None when any multiple runs."""
        side = getattr(self.config(network), "input_size", None)
        return None if side is None else int(side)


def _pixnerd_class() -> tuple[type[Any], Callable[[Any], nn.Module]]:
    from evalsuite.models.pixnerd import class_conditional as module

    return module.PixNerdClassConfig, module.PixNerdClassConditional


def _pixnerd_text() -> tuple[type[Any], Callable[[Any], nn.Module]]:
    from evalsuite.models.pixnerd import text_conditional as module

    return module.PixNerdTextConfig, module.PixNerdTextConditional


def _pixelgen_class() -> tuple[type[Any], Callable[[Any], nn.Module]]:
    from evalsuite.models.pixelgen import class_conditional as module

    return module.JiTClassConfig, module.JiTClassConditional


def _pixelgen_text() -> tuple[type[Any], Callable[[Any], nn.Module]]:
    from evalsuite.models.pixelgen import text_conditional as module

    return module.PixelGenTextConfig, module.PixelGenTextConditional


def _pixeldit_class() -> tuple[type[Any], Callable[[Any], nn.Module]]:
    from evalsuite.models.pixeldit import class_conditional as module

    return module.PixelDiTClassConfig, module.PixelDiTClassConditional


def _pixeldit_text() -> tuple[type[Any], Callable[[Any], nn.Module]]:
    from evalsuite.models.pixeldit import text_conditional as module

    return module.PixelDiTTextConfig, module.PixelDiTTextConditional


MODELS: dict[str, ModelFamily] = {
    "pixnerd-class": ModelFamily(_pixnerd_class),
    "pixnerd-text": ModelFamily(_pixnerd_text, "text"),
    "pixelgen-class": ModelFamily(_pixelgen_class, prediction="clean"),
    "pixelgen-text": ModelFamily(_pixelgen_text, "text", "clean"),
    "pixeldit-class": ModelFamily(_pixeldit_class),
    "pixeldit-text": ModelFamily(_pixeldit_text, "text", "reversed_velocity"),
}


def family_named(name: str) -> ModelFamily:
    """The family of that name, or one line with the nearest."""
    if name not in MODELS:
        raise ConfigError(f"unknown model family {name!r}: {nearest(name, MODELS)}")
    return MODELS[name]


def _typed(kind: type[Any], network: Mapping[str, Scalar]) -> Any:  # noqa: ANN401
    """Fill a configuration dataclass from `network`, refusing unknown and missing keys."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key, value in network.items():
        if key not in fields:
            raise ConfigError(f"unknown key 'network.{key}': {nearest(key, fields)}")
        _check_type(key, value, hints[key])
    network = {key: _as_hinted(key, value, hints[key]) for key, value in network.items()}
    missing = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in network
    ]
    if missing:
        raise ConfigError(f"network lacks {', '.join(missing)}")
    try:
        return kind(**network)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"network: {error}") from error


def _as_hinted(key: str, value: Scalar, hint: Any) -> Scalar:  # noqa: ANN401 - a type hint
    """A whole number for a field of fractions as one of these: 4 and 4.0 are the same network."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    try:
        return float(value) if type(value) is int and int not in kinds else value
    except OverflowError as error:
        raise ConfigError(f"network.{key} is too large for a number with a fraction") from error


def _check_type(key: str, value: Scalar, hint: Any) -> None:  # noqa: ANN401 - a type hint
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(value) in kinds or (float in kinds and type(value) is int):
        most = MOST_BLOCKS if "blocks" in key or "depth" in key else LARGEST_SIZE
        if type(value) is int and int in kinds and abs(value) > most:
            raise ConfigError(f"network.{key} is out of range: it must be at most {most}")
        return
    if int in kinds:
        raise ConfigError(f"network.{key} must be a whole number, not {value!r}")
    names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
    raise ConfigError(f"network.{key} must be {names}, not {value!r}")
