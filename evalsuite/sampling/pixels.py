"""From float images to the uint8 that is stored, hashed and scored."""

import torch
from torch import Tensor


def to_uint8_half_up(x_BCHW: Tensor) -> Tensor:
    """floor(clamp((x + 1) * 127.5 + 0.5, 0, 255)) in float32, as uint8 [B,H,W,C] on the CPU.

    Raises:
        ValueError: a value is NaN or infinite, which would become an arbitrary colour.
    """
    if not bool(torch.isfinite(x_BCHW).all()):
        raise ValueError("the sampler gave NaN or infinite pixels")
    scaled = ((x_BCHW.float() + 1) * 127.5 + 0.5).clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


UINT8_RULES = {"half_up": to_uint8_half_up}
