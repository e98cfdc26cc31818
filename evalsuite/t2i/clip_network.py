"""CLIP with both sides: pictures and texts to one space.

Legend: N pictures or texts, L tokens, E embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalsuite.artifacts.images import Images

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
Tokenize = Callable[[Sequence[str]], Any]
"""Sentences => input_ids and attention_mask, int64 [N,L], padded to one length."""


def clip_pixels(crops: Sequence[Images], side: int) -> Tensor:
    """float32 [N,3,side,side]: the short side resized bicubically, the centre cut out, normalised.

    Long objects lose their ends, as they do upstream.
    """
    rows = [_centre(Image.fromarray(crop), side) for crop in crops]
    pixels = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std


def _centre(image: Image.Image, side: int) -> Images:
    width, height = image.size
    short = min(width, height)
    wide = (
        (side if width == short else int(side * width / short)),
        (side if height == short else int(side * height / short)),
    )
    resized = image.resize(wide, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in wide)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


@dataclass(frozen=True)
class ClipEmbedding:
    """Embeds pictures and texts.

    Attributes:
        network: a CLIPModel of transformers, in float32.
        tokenize: see `Tokenize`.
        device: where it runs.
    """

    network: Any
    tokenize: Tokenize
    device: torch.device

    @torch.inference_mode()
    def embed_images(self, crops: Sequence[Images]) -> Tensor:
        """float32 [N,E], not normalised."""
        side = self.network.config.vision_config.image_size
        pixels = clip_pixels(crops, side).to(self.device)
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        embedded: Tensor = self.network.visual_projection(pooled)
        return embedded

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """float32 [N,E], not normalised."""
        tokens = self.tokenize(texts)
        pooled = self.network.text_model(
            input_ids=tokens["input_ids"].to(self.device),
            attention_mask=tokens["attention_mask"].to(self.device),
        ).pooler_output
        embedded: Tensor = self.network.text_projection(pooled)
        return embedded
