"""The model families that evalsuite can build. A new family is one line here and one folder."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from evalsuite.config import Scalar
from evalsuite.errors import ConfigError, nearest


@dataclass(frozen=True)
class ModelFamily:
    """A denoiser architecture.

    Attributes:
        build: the network from the `network` mapping of a preset, on the current torch device.
        multiple_of: from the same mapping, what image height and width must be multiples of;
            raises ConfigError when the mapping is wrong, so that plans are refused before any work.
    """

    build: Callable[[Mapping[str, Scalar]], nn.Module]
    multiple_of: Callable[[Mapping[str, Scalar]], int]


def _build_pixnerd_class(network: Mapping[str, Scalar]) -> nn.Module:
    from evalsuite.models.pixnerd.class_conditional import (
        PixNerdClassConditional,
        PixNerdClassConfig,
    )

    return PixNerdClassConditional(_typed(PixNerdClassConfig, network))


def _patch_size(network: Mapping[str, Scalar]) -> int:
    """The patch size, once every key of the network has been checked."""
    from evalsuite.models.pixnerd.class_conditional import PixNerdClassConfig

    return int(_typed(PixNerdClassConfig, network).patch_size)


MODELS: dict[str, ModelFamily] = {
    "pixnerd-class": ModelFamily(build=_build_pixnerd_class, multiple_of=_patch_size),
}


def family_named(name: str) -> ModelFamily:
    """The family of that name, or one line with the nearest."""
    if name not in MODELS:
        raise ConfigError(f"unknown model family {name!r}: {nearest(name, MODELS)}")
    return MODELS[name]


def _typed(kind: type[Any], network: Mapping[str, Scalar]) -> Any:  # noqa: ANN401
    """Fill a configuration dataclass from `network`, refusing unknown and missing keys."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in network.items():
        if key not in fields:
            raise ConfigError(f"unknown key 'network.{key}': {nearest(key, fields)}")
        if fields[key].type is int and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"network.{key} must be a whole number, not {value!r}")
    missing = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in network
    ]
    if missing:
        raise ConfigError(f"network lacks {', '.join(missing)}")
    try:
        return kind(**network)
    except ValueError as error:
        raise ConfigError(f"network: {error}") from error
