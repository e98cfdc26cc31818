"""Layers whose mathematics more than one model family shares.

Legend: B batch, N tokens, D width, H heads, K head width.
"""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale: w * u / sqrt(mean(u^2) + eps).

    The normalised value is rounded to the input's dtype before the float32 weight multiplies it,
    as PixNerd's class-conditional network does; in float32 this changes nothing.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, u: Tensor) -> Tensor:
        u32 = u.float()
        normalised = u32 * torch.rsqrt(u32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normalised.to(u.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward w2(SiLU(w1 u) * w3 u) without biases."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.w2(nn.functional.silu(self.w1(u)) * self.w3(u))
        return out


def modulate(u_BND: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """Adaptive-norm modulation u * (1 + scale) + shift."""
    return u_BND * (1 + scale_B1D) + shift_B1D


def rotate_pairs(u_BHNK: Tensor, cos_NP: Tensor, sin_NP: Tensor) -> Tensor:
    """Rotate adjacent channel pairs (2m, 2m+1) by given angles (P = K/2), in float32."""
    pairs = u_BHNK.float().reshape(*u_BHNK.shape[:-1], -1, 2)
    even, odd = pairs.unbind(-1)
    rotated = torch.stack((even * cos_NP - odd * sin_NP, even * sin_NP + odd * cos_NP), dim=-1)
    return rotated.flatten(-2)
