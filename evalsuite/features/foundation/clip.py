"""CLIP's projected image embedding, the features of CMMD; they are not normalised here.

Legend: B batch, S input side, D feature width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalsuite.config import ExtractorSpec
from evalsuite.errors import DataError
from evalsuite.features.foundation.extractor import FoundationExtractor
from evalsuite.features.foundation.files import load_network, read_config
from evalsuite.features.foundation.precision import check_float32
from evalsuite.features.foundation.resizing import resizing_named

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of CLIP's training images."""
_OTHER_PARTS = (
    "text_model.",
    "text_projection.",
    "logit_scale",
    "vision_model.embeddings.position_ids",
)
"""What a whole CLIP has beside its image side, and a buffer that old files keep."""


def build_clip(spec: ExtractorSpec, folder: Path, device: torch.device) -> FoundationExtractor:
    """The image side of CLIP from a local folder.

    Source: Jayasumana et al. 2024 (arXiv 2401.09603); google-research `cmmd/embedding.py`.

    Raises:
        ConfigError: the spec names no known resize, or another precision.
        DataError: the folder holds another network, or weights that do not fit.
        EnvironmentProblem: transformers is not installed.
    """
    check_float32(spec)
    resizing = resizing_named(spec.resize)
    read_config(folder, ("clip", "clip_vision_model"))
    network: Any = load_network(folder, "CLIPVisionModelWithProjection", ignored=_OTHER_PARTS)
    found = (network.config.projection_dim, network.config.image_size)
    if found != (spec.pool_dim, resizing.size):
        raise DataError(
            f"{folder} holds a CLIP of width {found[0]} for images of {found[1]} pixels, but"
            f" {spec.name} has the width {spec.pool_dim} and {resizing.size} pixels"
        )
    network.to(device)

    def embed(images_B3SS: Tensor) -> Tensor:
        embedded: Tensor = network(pixel_values=images_B3SS).image_embeds
        return embedded

    return FoundationExtractor(embed, resizing, OPENAI, device, spec.batch_size)
