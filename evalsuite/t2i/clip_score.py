"""CLIPScore: how near a picture is to its prompt.

Source: Hessel et al. 2021, section 3: 2.5 times the cosine of picture and text where it is above 0,
with "A photo depicts" before each text. Legend: N pictures, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evalsuite.artifacts.images import Images
from evalsuite.errors import DataError
from evalsuite.t2i.clip_network import ClipEmbedding

PREFIX = "A photo depicts "
WEIGHT = 2.5


@dataclass(frozen=True)
class ClipScore:
    """Scores pictures against their prompts with a CLIP."""

    clip: ClipEmbedding

    def __call__(self, images: Sequence[Images], prompts: Sequence[str]) -> list[float]:
        """CLIPScore of each picture, uint8 [H,W,3].

        Raises:
            DataError: a number is NaN.
        """
        seen_NE = torch.nn.functional.normalize(self.clip.embed_images(images).double(), dim=-1)
        said_NE = torch.nn.functional.normalize(
            self.clip.embed_texts([PREFIX + prompt for prompt in prompts]).double(), dim=-1
        )
        cosines = (seen_NE * said_NE).sum(dim=-1).cpu().numpy()
        if not np.isfinite(cosines).all():
            raise DataError("CLIP gave NaN: its weights are broken")
        return [round(WEIGHT * max(float(cosine), 0.0), 9) for cosine in cosines]
