"""DINOv2's normalised class token, the features of FD-DINOv2.

Legend: B batch, S input side, P patches, G patches along a side, D feature width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from evalsuite.config import ExtractorSpec
from evalsuite.errors import DataError
from evalsuite.features.foundation.extractor import FoundationExtractor
from evalsuite.features.foundation.files import load_network, read_config
from evalsuite.features.foundation.precision import check_float32
from evalsuite.features.foundation.resizing import resizing_named

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's training images."""
_OFFSET = 0.1
"""Added to the number of patches along a side, in the scale by which the original program
interpolates its position embeddings; transformers adds nothing."""


def build_dinov2(spec: ExtractorSpec, folder: Path, device: torch.device) -> FoundationExtractor:
    """DINOv2 from a local folder.

    Source: Stein et al. 2023 (arXiv 2306.04675); EDM2 `calculate_metrics.py`, DINOv2Detector;
    dgm-eval `models/dinov2.py`; facebookresearch/dinov2 `models/vision_transformer.py`.

    Raises:
        ConfigError: the spec names no known resize, or another precision.
        DataError: the folder holds another network, or weights that do not fit.
        EnvironmentProblem: transformers is not installed.
    """
    check_float32(spec)
    resizing = resizing_named(spec.resize)
    config = read_config(folder, ("dinov2",))
    if config.get("hidden_size") != spec.pool_dim:
        raise DataError(
            f"{folder} holds a DINOv2 of width {config.get('hidden_size')}, but {spec.name} has"
            f" the width {spec.pool_dim}"
        )
    network: Any = load_network(folder, "Dinov2Model")
    patch = network.config.patch_size
    if resizing.size % patch:
        raise DataError(f"{folder}: patches of {patch} do not divide {resizing.size} pixels")
    embeddings = network.embeddings
    embeddings.position_embeddings = nn.Parameter(
        positions_for(embeddings.position_embeddings, resizing.size // patch), requires_grad=False
    )
    network.to(device)

    def embed(images_B3SS: Tensor) -> Tensor:
        tokens: Tensor = network(pixel_values=images_B3SS).last_hidden_state
        return tokens[:, 0]

    return FoundationExtractor(embed, resizing, IMAGENET, device, spec.batch_size)


def positions_for(positions_1PD: Tensor, side: int) -> Tensor:
    """Position embeddings for another number of patches, as the original program makes them.

    It interpolates by the scale (side + 0.1) / G, transformers by side / G: without the 0.1 the
    features are others. Made once, so that the version of transformers cannot matter.

    Args:
        positions_1PD: float32 [1, 1 + G * G, D], the class token's first.
        side: patches along a side of the images that will come.

    Returns:
        float32 [1, 1 + side * side, D].
    """
    grid = round((positions_1PD.shape[1] - 1) ** 0.5)
    if grid == side:
        return positions_1PD
    patches_1DGG = positions_1PD[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    scale = (side + _OFFSET) / grid
    resized_1DSS = interpolate(patches_1DGG, scale_factor=(scale, scale), mode="bicubic")
    assert resized_1DSS.shape[2:] == (side, side)
    return torch.cat((positions_1PD[:, :1], resized_1DSS.flatten(2).transpose(1, 2)), dim=1)
