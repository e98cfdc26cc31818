"""From float images to the uint8 that is stored, hashed and scored."""

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """Pixels that are NaN or infinite, which would become an arbitrary colour."""


def to_uint8_half_up(x_BCHW: Tensor) -> Tensor:
    """floor(clamp((x + 1) * 127.5 + 0.5, 0, 255)) in float32, as uint8 [B,H,W,C] on the CPU.

    Raises:
        NotFiniteError: a value is NaN or infinite.
    """
    _check_finite(x_BCHW)
    scaled = (x_BCHW.float() + 1).mul_(127.5).add_(0.5).clamp_(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def to_uint8_half_even(x_BCHW: Tensor) -> Tensor:
    """round(clamp((x + 1) / 2 * 255, 0, 255)), ties to even, in float32; JiT's rule.

    Shapes and errors are those of `to_uint8_half_up`, from which it differs in about 4 of a million
    values.
    """
    _check_finite(x_BCHW)
    scaled = (x_BCHW.float() + 1).div_(2).mul_(255).clamp_(0, 255).round_()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def _check_finite(x_BCHW: Tensor) -> None:
    """Look at each value only where their sum is not finite, as it is where one of them is not."""
    if not bool(torch.isfinite(x_BCHW.sum())) and not bool(torch.isfinite(x_BCHW).all()):
        raise NotFiniteError("the sampler gave NaN or infinite pixels")


UINT8_RULES = {"half_up": to_uint8_half_up, "half_even": to_uint8_half_even}
