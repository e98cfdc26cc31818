"""Mask2Former as GenEval's detector: the original's input and output around transformers' network.

The network's own image processor squeezes to 384 x 384 and its post-processing works at that size;
neither is used. Legend: B batch, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evalsuite.artifacts.images import Images
from evalsuite.errors import DataError
from evalsuite.t2i.detections import Detection, Detections
from evalsuite.t2i.mask2former_output import Instances, Sizes, instances_of
from evalsuite.t2i.opencv_resize import fit_within, resize_bilinear

LONG_EDGE, SHORT_EDGE = 1333, 800
_MULTIPLE = 32
_GREY = 128
"""Padding of the image, before it is normalised."""
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class Prepared(NamedTuple):
    """The network's input for images of one size: float32 [B,3,H,W], and the sizes behind it."""

    pixels_B3HW: Tensor
    sizes: Sizes


@dataclass(frozen=True)
class Mask2FormerDetector:
    """Finds objects with a network of transformers.

    Attributes:
        network: Mask2FormerForUniversalSegmentation with a head for instances, in float32.
        class_names: of each class index; officially the lines of object_names.txt.
        device: where it runs.
        batch_size: images of one size that are computed together.
        min_score: what scores less is not returned; below every threshold that is used.
        long_edge: of the resized image, at most.
        short_edge: of the resized image, at most.
        max_per_image: pairs of query and class that are looked at.
    """

    network: Any
    class_names: tuple[str, ...]
    device: torch.device
    batch_size: int = 4
    min_score: float = 0.05
    long_edge: int = LONG_EDGE
    short_edge: int = SHORT_EDGE
    max_per_image: int = 100

    def __post_init__(self) -> None:
        """Refuse a network of other classes.

        Raises:
            DataError: it has not as many classes as there are names.
        """
        if self.network.config.num_labels != len(self.class_names):
            raise DataError(
                f"the detector has {self.network.config.num_labels} classes, but"
                f" {len(self.class_names)} names were given: it is another head than GenEval's, or"
                " the names are another list"
            )

    def detect(self, images: Sequence[Images]) -> list[Detections]:
        """Objects in each image uint8 [H,W,3], best first; images of equal size go together."""
        found: list[Detections | None] = [None] * len(images)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(place)
        for places in by_size.values():
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                for place, one in zip(part, self._batch([images[i] for i in part]), strict=True):
                    found[place] = one
        return [one for one in found if one is not None]

    @torch.inference_mode()
    def logits(self, images: Sequence[Images]) -> tuple[Tensor, Tensor, Sizes]:
        """Raw outputs for images of one size: class logits and mask logits; see `instances_of`."""
        prepared = self.prepare(images)
        pixels_B3HW = prepared.pixels_B3HW.to(self.device)
        mask_BHW = torch.ones_like(pixels_B3HW[:, 0], dtype=torch.int64)
        out = self.network(pixel_values=pixels_B3HW, pixel_mask=mask_BHW)
        return out.class_queries_logits, out.masks_queries_logits, prepared.sizes

    def prepare(self, images: Sequence[Images]) -> Prepared:
        """Resized, padded and normalised in the original's order."""
        height, width = images[0].shape[:2]
        h, w = fit_within((height, width), self.long_edge, self.short_edge)
        padded = (-(-h // _MULTIPLE) * _MULTIPLE, -(-w // _MULTIPLE) * _MULTIPLE)
        canvas = np.full((len(images), *padded, 3), _GREY, dtype=np.uint8)
        for place, image in enumerate(images):
            canvas[place, :h, :w] = resize_bilinear(image, (h, w))
        pixels = torch.from_numpy(canvas).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        return Prepared((pixels - mean) / std, Sizes(padded, (h, w), (height, width)))

    @torch.inference_mode()
    def _batch(self, images: Sequence[Images]) -> list[Detections]:
        classes, masks, sizes = self.logits(images)
        return [
            self._detections(instances_of(c, m, sizes, self.max_per_image))
            for c, m in zip(classes, masks, strict=True)
        ]

    def _detections(self, instances: Instances) -> Detections:
        found = []
        for place in (instances.scores_D >= self.min_score).nonzero().flatten().tolist():
            x1, y1, x2, y2 = instances.boxes_D4[place].tolist()
            found.append(
                Detection(
                    self.class_names[int(instances.labels_D[place])],
                    (x1, y1, x2, y2),
                    float(instances.scores_D[place]),
                    instances.masks_DHW[place].cpu().numpy(),
                )
            )
        return Detections(tuple(found))
