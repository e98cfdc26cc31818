"""Layers whose mathematics more than one model family shares.

Legend: B batch, N tokens, D width, H heads, K head width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


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


class RMSNormFloat32(nn.Module):
    """The same norm with the weight multiplied in float32 too, before the one rounding at the end.

    As PixNerd's text-to-image network and both of PixelGen's have it.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, u: Tensor) -> Tensor:
        u32 = u.float()
        normalised = u32 * torch.rsqrt(u32.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight.float() * normalised).to(u.dtype)


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


def time_sinusoid(t_B: Tensor, period: float) -> Tensor:
    """256 sinusoids of the raw time, cosines first, of that maximal period; float32 [B, 256]."""
    exponents = torch.arange(128, dtype=torch.float32, device=t_B.device) / 128
    angles = t_B.float()[:, None] * torch.exp(-math.log(period) * exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def rotary_table(
    head_dim: int, height: int, width: int, ends: tuple[float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, head_dim / 2] of a grid of tokens, rows first.

    Positions span 0..ends[0] along x and 0..ends[1] along y, both ends included, whatever the
    grid; x and y angles alternate for each frequency.
    """
    x = torch.linspace(0, ends[0], width, device=device)
    y = torch.linspace(0, ends[1], height, device=device)
    powers = torch.arange(0, head_dim, 4, device=device)[: head_dim // 4].float() / head_dim
    frequencies = 1.0 / (10000.0**powers)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    angles = torch.stack(
        (torch.outer(grid_x.flatten(), frequencies), torch.outer(grid_y.flatten(), frequencies)), -1
    ).flatten(1)
    return angles.cos(), angles.sin()


class TimeEmbedder(nn.Module):
    """Sinusoids of t followed by Linear, SiLU, Linear."""

    def __init__(self, hidden_size: int, period: float) -> None:
        super().__init__()
        self.period = period
        self.mlp = nn.Sequential(
            nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t_B: Tensor) -> Tensor:
        out: Tensor = self.mlp(time_sinusoid(t_B, self.period))
        return out


class PatchEmbedder(nn.Module):
    """One Linear over the channel-major values of a patch."""

    def __init__(self, in_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, hidden_size)

    def forward(self, patches_BNV: Tensor) -> Tensor:
        out: Tensor = self.proj(patches_BNV)
        return out


class LabelEmbedder(nn.Module):
    """A table with one row for each class and a last row for the null class."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, labels_B: Tensor) -> Tensor:
        out: Tensor = self.embedding_table(labels_B)
        return out


class Attention(nn.Module):
    """Self-attention with q and k normalised before the rotary embedding."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = RMSNorm(dim // num_heads)
        self.k_norm = RMSNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, u_BND: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        qkv = self.qkv(u_BND).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q = rotate_pairs(self.q_norm(q), *rotary)
        k = rotate_pairs(self.k_norm(k), *rotary)
        attended = scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out
