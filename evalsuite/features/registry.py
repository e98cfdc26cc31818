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

    if spec.precision != "float32":
        raise ConfigError(f"extractor {spec.name}: {spec.family} runs in float32 only")
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read extractor weights {weights}: {error}") from error
    return DigitsExtractor(state, device, spec.batch_size)


def _build_inception(spec: ExtractorSpec, weights: Path, device: torch.device) -> Extractor:
    from evalsuite.features.inception.extractor import InceptionExtractor
    from evalsuite.features.inception.layers import SPATIAL_WIDTH
    from evalsuite.features.inception.resize import RESIZE_NAME
    from evalsuite.features.inception.weights import read_weights

    if spec.resize != RESIZE_NAME:
        raise ConfigError(
            f"extractor {spec.name}: {spec.family} resizes by {RESIZE_NAME}, not {spec.resize}"
        )
    arrays = read_weights(weights)
    pool_dim, num_classes = arrays.classes_DK.shape
    have = {"pool_dim": pool_dim, "spatial_dim": SPATIAL_WIDTH, "num_classes": num_classes}
    for key, value in have.items():
        if getattr(spec, key) != value:
            raise DataError(
                f"extractor {spec.name}: {key} is {getattr(spec, key)} in {spec.path}, but the"
                f" network in {weights} gives {value}"
            )
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.precision]
    return InceptionExtractor(arrays, device, spec.batch_size, dtype)


def _build_dinov2(spec: ExtractorSpec, weights: Path, device: torch.device) -> Extractor:
    from evalsuite.features.foundation.dinov2 import build_dinov2

    return build_dinov2(spec, weights, device)


def _build_clip(spec: ExtractorSpec, weights: Path, device: torch.device) -> Extractor:
    from evalsuite.features.foundation.clip import build_clip

    return build_clip(spec, weights, device)


EXTRACTORS: dict[str, Builder] = {
    "digits-convnet": _build_digits_convnet,
    "inception-2015-12-05": _build_inception,
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
