"""From Mask2Former's raw outputs to detections, as mmdet 2.27 does it for instances.

The library's own post-processing works at another size, ignores padding and lets masks overwrite
each other, which moves boxes by pixels; so the steps are done here.
Legend: Q queries, C classes without "no object", D detections, H height, W width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from evalsuite.errors import DataError

_EPS = 1e-6


class Sizes(NamedTuple):
    """(H, W) of the network's padded input, of the picture in it, and of the original."""

    padded: tuple[int, int]
    resized: tuple[int, int]
    original: tuple[int, int]


class Instances(NamedTuple):
    """Detections of one image, best first.

    Attributes:
        labels_D: int64, class indices.
        boxes_D4: float32, (x1, y1, x2, y2), right and bottom exclusive; zeros for an empty mask.
        scores_D: float32.
        masks_DHW: bool, at the original size.
    """

    labels_D: Tensor
    boxes_D4: Tensor
    scores_D: Tensor
    masks_DHW: Tensor


def instances_of(
    class_logits_QC1: Tensor, mask_logits_Qhw: Tensor, sizes: Sizes, max_per_image: int = 100
) -> Instances:
    """Detections of one image.

    Args:
        class_logits_QC1: float32 [Q,C+1], the last column is "no object".
        mask_logits_Qhw: float32 [Q,h,w], at a fraction of the padded size.
        sizes: see `Sizes`.
        max_per_image: D; one query may appear under several classes.

    Raises:
        DataError: a logit is NaN or infinite.
    """
    if not (bool(class_logits_QC1.isfinite().all()) and bool(mask_logits_Qhw.isfinite().all())):
        raise DataError(
            "the detector gave NaN or infinite logits: its weights or its kernels are broken"
        )
    probabilities_QC = class_logits_QC1.softmax(dim=-1)[:, :-1]
    num_classes = probabilities_QC.shape[1]
    flat = probabilities_QC.flatten()
    scores_D, places_D = flat.topk(min(max_per_image, len(flat)))
    queries_D, labels_D = places_D // num_classes, places_D % num_classes
    wanted, back = torch.unique(queries_D, return_inverse=True)
    masks_QHW = _at_original_size(mask_logits_Qhw[wanted], sizes)
    inside_QHW = masks_QHW > 0
    sums_Q = (masks_QHW.sigmoid() * inside_QHW).flatten(1).sum(dim=1)
    means_Q = sums_Q / (inside_QHW.flatten(1).sum(dim=1) + _EPS)
    scores_D = scores_D * means_Q[back]
    boxes_D4 = tight_boxes(inside_QHW)[back]
    order_D = scores_D.argsort(descending=True, stable=True)
    return Instances(
        labels_D[order_D], boxes_D4[order_D], scores_D[order_D], inside_QHW[back[order_D]]
    )


def _at_original_size(mask_logits_Qhw: Tensor, sizes: Sizes) -> Tensor:
    """Bilinear to the padded size, the padding cut off, bilinear to the original size."""
    padded = _bilinear(mask_logits_Qhw, sizes.padded)
    height, width = sizes.resized
    return _bilinear(padded[:, :height, :width], sizes.original)


def _bilinear(maps_Qhw: Tensor, size: tuple[int, int]) -> Tensor:
    resized = torch.nn.functional.interpolate(
        maps_Qhw[None], size=size, mode="bilinear", align_corners=False
    )
    return resized[0]


def tight_boxes(masks_DHW: Tensor) -> Tensor:
    """float32 [D,4]: the smallest box around each mask, zeros where it is empty."""
    boxes_D4 = torch.zeros(len(masks_DHW), 4, device=masks_DHW.device)
    for place, mask_HW in enumerate(masks_DHW):
        rows = mask_HW.any(dim=1).nonzero().flatten()
        columns = mask_HW.any(dim=0).nonzero().flatten()
        if len(rows):
            x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            boxes_D4[place] = torch.stack([x1, y1, x2, y2]).float()
    return boxes_D4
