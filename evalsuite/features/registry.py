"""The extractor families that evalsuite can build. A new one is one line here and one file."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from evalsuite.config import ExtractorSpec
from evalsuite.errors import ConfigError, DataError, nearest
from evalsuite.features.base import Extractor

Builder = Callable[[ExtractorSpec, Path, torch.device], Extractor]


def _build_digits_convnet(spec: ExtractorSpec, weights: Path, device: torch.device) -> Extractor:
    from evalsuite.features.digits import DigitsExtractor

    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read extractor weights {weights}: {error}") from error
    return DigitsExtractor(state, device, spec.batch_size)


def _build_dinov2(spec: ExtractorSpec, weights: Path, device: torch.device) -> Extractor:
    from evalsuite.features.foundation.dinov2 import build_dinov2

    return build_dinov2(spec, weights, device)


def _build_clip(spec: ExtractorSpec, weights: Path, device: torch.device) -> Extractor:
    from evalsuite.features.foundation.clip import build_clip

    return build_clip(spec, weights, device)


EXTRACTORS: dict[str, Builder] = {
    "digits-convnet": _build_digits_convnet,
    "dinov2": _build_dinov2,
    "clip": _build_clip,
}


def build_extractor(spec: ExtractorSpec, weights: Path, device: torch.device) -> Extractor:
    """The extractor of `spec` with the weights at `weights`, frozen, on `device`.

    Raises:
        ConfigError: unknown family.
        DataError: the weights cannot be read or do not fit.
    """
    if spec.family not in EXTRACTORS:
        raise ConfigError(
            f"unknown extractor family {spec.family!r}: {nearest(spec.family, EXTRACTORS)}"
        )
    return EXTRACTORS[spec.family](spec, weights, device)
