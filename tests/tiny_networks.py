"""Small DINOv2 and CLIP networks on disk, with random weights, and specs that fit them."""

from pathlib import Path
from typing import Any

import torch

from evalsuite.config import ExtractorSpec, load_spec

DINO_WIDTH, CLIP_WIDTH = 32, 24
_VIT = {"hidden_size": DINO_WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_dinov2(folder: Path, **changes: Any) -> Path:
    """A Dinov2Model whose position embeddings are as large as its patches'."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(5)
    sizes = {**_VIT, "patch_size": 14, "image_size": 518, "mlp_ratio": 2, **changes}
    Dinov2Model(Dinov2Config(initializer_range=0.3, **sizes)).save_pretrained(folder)
    return folder


def clip_vision_config(**changes: Any) -> dict[str, Any]:
    """Sizes of the image side."""
    sizes = {**_VIT, "intermediate_size": 48, "patch_size": 56, "image_size": 336}
    return {**sizes, "projection_dim": CLIP_WIDTH, "initializer_factor": 3.0, **changes}


def save_clip(folder: Path, **changes: Any) -> Path:
    """The image side alone."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(6)
    config = CLIPVisionConfig(**clip_vision_config(**changes))
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def spec_of(name: str, width: int, batch_size: int = 4) -> ExtractorSpec:
    """A shipped extractor, made narrow."""
    spec = load_spec(ExtractorSpec, name)
    return spec.model_copy(update={"pool_dim": width, "batch_size": batch_size})
