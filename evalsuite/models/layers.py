"""Layers whose mathematics more than one model family shares.

Legend: B batch, N tokens (patches), D width, H heads, K head width, S pixels of a patch, C channels
(in BCHW, H and W are the image's height and width).
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

    As PixNerd's text-conditional network and both of PixelGen's have it.
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


class FusedSwiGLU(nn.Module):
    """Gated feed-forward w3(SiLU(a) * b) with (a, b) = w12 u: here w3 is the output.

    PixNerd's text-conditional network and PixelGen's have it; their widths and biases differ.
    """

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden_dim, bias=bias)
        self.w3 = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, u: Tensor) -> Tensor:
        gate, up = self.w12(u).chunk(2, dim=-1)
        out: Tensor = self.w3(nn.functional.silu(gate) * up)
        return out


def split_patches(x_BCHW: Tensor, patch: tuple[int, int]) -> Tensor:
    """Non-overlapping patches [B, N, C, S] of (height, width) `patch`, both orders rows first.

    Raises:
        ValueError: the image's height or width is not a multiple of the patch's.
    """
    height, width = x_BCHW.shape[-2:]
    if height % patch[0] or width % patch[1]:
        side = patch[0] if patch[0] == patch[1] else f"{patch[0]}x{patch[1]}"
        raise ValueError(f"size {height}x{width} is not a multiple of the patch size {side}")
    cells = x_BCHW.reshape(
        *x_BCHW.shape[:2], height // patch[0], patch[0], width // patch[1], patch[1]
    )
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)


def join_patches(v_BNCS: Tensor, patch: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The image [B, C, H, W] of that (height, width): the inverse of `split_patches`."""
    grid = (size[0] // patch[0], size[1] // patch[1])
    cells = v_BNCS.reshape(len(v_BNCS), *grid, -1, *patch)
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


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


def split_heads(u_BNV: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """The `parts` tensors [B, H, N, K] that lie side by side in V, each with its heads in order."""
    heads = u_BNV.reshape(*u_BNV.shape[:2], parts, num_heads, -1)
    return heads.permute(2, 0, 3, 1, 4).unbind(0)


def attend(q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor) -> Tensor:
    """Softmax attention [B, N, D] without mask, scaled by K^-0.5, in the dtype of v."""
    q, k = q_BHNK.to(v_BHMK.dtype), k_BHMK.to(v_BHMK.dtype)
    return scaled_dot_product_attention(q, k, v_BHMK).transpose(1, 2).flatten(2)


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
        q, k, v = split_heads(self.qkv(u_BND), 3, self.num_heads)
        q = rotate_pairs(self.q_norm(q), *rotary)
        k = rotate_pairs(self.k_norm(k), *rotary)
        out: Tensor = self.proj(attend(q, k, v))
        return out


class EncoderBlock(nn.Module):
    """Attention and feed-forward, each modulated and gated by a condition of the whole image.

    The block of PixNerd's and PixelDiT's class-conditional networks; the condition comes activated.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = RMSNorm(dim)
        self.mlp = SwiGLU(dim, int(2 * (4 * dim) / 3))
        self.adaLN_modulation = nn.Sequential(nn.Linear(dim, 6 * dim))

    def forward(self, s_BND: Tensor, c_B1D: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c_B1D).chunk(6, dim=-1)
        s_BND = s_BND + gate1 * self.attn(modulate(self.norm1(s_BND), shift1, scale1), rotary)
        out: Tensor = s_BND + gate2 * self.mlp(modulate(self.norm2(s_BND), shift2, scale2))
        return out
