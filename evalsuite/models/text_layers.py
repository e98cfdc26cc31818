"""Layers of the text-conditional transformer that PixNerd and PixelGen share, key for key.

Legend: B batch, N image tokens, M text tokens, D width, F width of the text encoder.
"""

import torch
from torch import Tensor, nn

from evalsuite.models.layers import (
    FusedSwiGLU,
    RMSNormFloat32,
    attend,
    modulate,
    rotate_pairs,
    split_heads,
)

FEED_FORWARD_RATIO = 4  # of the hidden width; the class-conditional networks have 8/3


class TextEmbedder(nn.Module):
    """Linear from the text encoder's features to the network's width, then a norm."""

    def __init__(self, in_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, hidden_size)
        self.norm = RMSNormFloat32(hidden_size)

    def forward(self, text_BMF: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(text_BMF))
        return out


class TextAttention(nn.Module):
    """Self-attention over text tokens: no rotary embedding, no mask, so padding is attended."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = RMSNormFloat32(dim // num_heads)
        self.k_norm = RMSNormFloat32(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, y_BMD: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv(y_BMD), 3, self.num_heads)
        out: Tensor = self.proj(attend(self.q_norm(q), self.k_norm(k), v))
        return out


class TextRefineBlock(nn.Module):
    """A modulated transformer block over the text tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNormFloat32(dim)
        self.attn = TextAttention(dim, num_heads)
        self.norm2 = RMSNormFloat32(dim)
        self.mlp = FusedSwiGLU(dim, FEED_FORWARD_RATIO * dim, bias=False)
        self.adaLN_modulation = nn.Sequential(nn.Linear(dim, 6 * dim))

    def forward(self, y_BMD: Tensor, c_B1D: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c_B1D).chunk(6, dim=-1)
        y_BMD = y_BMD + gate1 * self.attn(modulate(self.norm1(y_BMD), shift1, scale1))
        out: Tensor = y_BMD + gate2 * self.mlp(modulate(self.norm2(y_BMD), shift2, scale2))
        return out


class ImageTextAttention(nn.Module):
    """Image tokens attend to themselves and to the text; only image q and k are rotated.

    One norm serves the keys of both, and keys are ordered image first.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_x = nn.Linear(dim, 3 * dim, bias=False)
        self.kv_y = nn.Linear(dim, 2 * dim, bias=False)
        self.q_norm = RMSNormFloat32(dim // num_heads)
        self.k_norm = RMSNormFloat32(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, u_BND: Tensor, y_BMD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = split_heads(self.qkv_x(u_BND), 3, self.num_heads)
        k_text, v_text = split_heads(self.kv_y(y_BMD), 2, self.num_heads)
        q = rotate_pairs(self.q_norm(q), *rotary).to(v.dtype)
        k = rotate_pairs(self.k_norm(k), *rotary).to(v.dtype)
        keys = torch.cat((k, self.k_norm(k_text)), dim=2)
        out: Tensor = self.proj(attend(q, keys, torch.cat((v, v_text), dim=2)))
        return out


class ImageTextBlock(nn.Module):
    """A modulated transformer block over the image tokens that reads the text but leaves it."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNormFloat32(dim)
        self.attn = ImageTextAttention(dim, num_heads)
        self.norm2 = RMSNormFloat32(dim)
        self.mlp = FusedSwiGLU(dim, FEED_FORWARD_RATIO * dim, bias=False)
        self.adaLN_modulation = nn.Sequential(nn.Linear(dim, 6 * dim))

    def forward(
        self, s_BND: Tensor, y_BMD: Tensor, c_B1D: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c_B1D).chunk(6, dim=-1)
        attended = self.attn(modulate(self.norm1(s_BND), shift1, scale1), y_BMD, rotary)
        s_BND = s_BND + gate1 * attended
        out: Tensor = s_BND + gate2 * self.mlp(modulate(self.norm2(s_BND), shift2, scale2))
        return out
