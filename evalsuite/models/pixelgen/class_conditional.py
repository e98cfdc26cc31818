"""The class-conditional network of JiT and PixelGen: a patch transformer that predicts the image.

Source: JiT (Li and He 2025, arXiv 2511.13720; public repository LTH14/JiT at cbc743a) and PixelGen
(arXiv 2602.02493; public repository Zehong-Ma/PixelGen at 0ccec60), whose state-dict keys and
float32 outputs this module reproduces (tests/golden/). The two differ in the patch embedding of
PixelGen's XL model and in the precision of attention under autocast.

Legend: B batch, N patches (tokens), D width, L context tokens, P half the head width, C channels.
"""

import contextlib
import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalsuite.models.layers import (
    FusedSwiGLU,
    LabelEmbedder,
    RMSNormFloat32,
    TimeEmbedder,
    attend,
    join_patches,
    modulate,
    rotate_pairs,
    split_heads,
)
from evalsuite.models.pixelgen.layers import add_position, check_image, sincos_position_code

TIME_PERIOD = 10000.0
ROTARY_PERIOD = 10000.0

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines [N, P]."""


@dataclass(frozen=True)
class JiTClassConfig:
    """Sizes of the network, under the names of the upstream constructor.

    Attributes:
        input_size: side of the image in pixels.
        mlp_ratio: the feed-forward width is two thirds of this times `hidden_size`, cut to a whole
            number.
        use_bottleneck: embed patches through `bottleneck_dim` channels (JiT, PixelGen-L), not by
            one convolution (PixelGen-XL).
        in_context_len: class tokens put before the image tokens; 0 is none.
        in_context_start: the block before which they are put.
        float32_scores: compute attention scores and softmax in float32 under autocast too, as JiT
            does; off is PixelGen's fused kernel. In float32 this changes nothing.
    """

    input_size: int
    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int
    num_classes: int
    in_channels: int = 3
    mlp_ratio: float = 4.0
    use_bottleneck: bool = True
    bottleneck_dim: int = 128
    in_context_len: int = 32
    in_context_start: int = 8
    float32_scores: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that the architecture cannot have."""
        for field in dataclasses.fields(self):
            least = 0 if field.name.startswith("in_context") else 1
            if field.type is int and getattr(self, field.name) < least:
                raise ValueError(f"{field.name} must be at least {least}")
        if self.in_context_len and self.in_context_start >= self.depth:
            raise ValueError("in_context_start must lie in 0..depth-1")
        if not (math.isfinite(self.mlp_ratio) and self.feed_forward_size >= 1):
            raise ValueError("mlp_ratio must give a feed-forward width of at least 1")
        if self.input_size % self.patch_size:
            raise ValueError("input_size must be a multiple of patch_size")
        if self.hidden_size % self.num_heads:
            raise ValueError("hidden_size must be a multiple of num_heads")
        if self.hidden_size // self.num_heads % 4:
            raise ValueError("the head width, hidden_size / num_heads, must be a multiple of 4")

    @property
    def feed_forward_size(self) -> int:
        """Width of the feed-forward layers, rounded down twice as upstream."""
        return int(int(self.hidden_size * self.mlp_ratio) * 2 / 3)


def rotary_table_of_grid(head_dim: int, grid_size: int, device: torch.device) -> Rotary:
    """Cosines and sines of a square grid of tokens, rows first: P/2 angles of the row, then column.

    Positions are 0, 1, ... grid_size - 1.
    """
    half = head_dim // 2
    frequencies = 1 / ROTARY_PERIOD ** (torch.arange(0, half, 2, device=device).float() / half)
    places = torch.arange(grid_size, device=device) / grid_size * grid_size
    angles = torch.outer(places, frequencies)
    rows, columns = angles.repeat_interleave(grid_size, dim=0), angles.repeat(grid_size, 1)
    both = torch.cat((rows, columns), dim=-1)
    return both.cos(), both.sin()


def leave_context_unrotated(rotary: Rotary, num_tokens: int) -> Rotary:
    """The table with `num_tokens` rows of angle 0 put before it."""
    cos, sin = rotary
    ones, zeros = cos.new_ones(num_tokens, cos.shape[1]), sin.new_zeros(num_tokens, sin.shape[1])
    return torch.cat((ones, cos)), torch.cat((zeros, sin))


def attend_with_float32_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention [B, N, D] with scores and softmax in float32, whatever autocast says."""
    device = q.device.type
    available = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if available else contextlib.nullcontext():
        scores = q.float() @ k.float().mT * (1 / math.sqrt(q.shape[-1]))
        attended = scores.softmax(dim=-1).to(v.dtype) @ v
    return attended.transpose(1, 2).flatten(2)


class PatchEmbedder(nn.Module):
    """One convolution over whole patches, or two through a bottleneck."""

    def __init__(self, config: JiTClassConfig) -> None:
        super().__init__()
        patch, dim = config.patch_size, config.hidden_size
        inner = config.bottleneck_dim if config.use_bottleneck else dim
        self.proj1 = nn.Conv2d(
            config.in_channels, inner, patch, stride=patch, bias=not config.use_bottleneck
        )
        self.proj2 = nn.Conv2d(inner, dim, 1) if config.use_bottleneck else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        u: Tensor = self.proj1(x_BCHW)
        if self.proj2 is not None:
            u = self.proj2(u)
        return u.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with biases, q and k normalised before the rotary embedding."""

    def __init__(self, dim: int, num_heads: int, *, float32_scores: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.float32_scores = float32_scores
        self.q_norm = RMSNormFloat32(dim // num_heads)
        self.k_norm = RMSNormFloat32(dim // num_heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, u_BND: Tensor, rotary: Rotary) -> Tensor:
        q, k, v = split_heads(self.qkv(u_BND), 3, self.num_heads)
        q = rotate_pairs(self.q_norm(q), *rotary)
        k = rotate_pairs(self.k_norm(k), *rotary)
        attention = attend_with_float32_scores if self.float32_scores else attend
        out: Tensor = self.proj(attention(q, k, v))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each modulated and gated by the condition."""

    def __init__(self, config: JiTClassConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.norm1 = RMSNormFloat32(dim)
        self.attn = Attention(dim, config.num_heads, float32_scores=config.float32_scores)
        self.norm2 = RMSNormFloat32(dim)
        self.mlp = FusedSwiGLU(dim, config.feed_forward_size, bias=True)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, h_BND: Tensor, c_B1D: Tensor, rotary: Rotary) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c_B1D).chunk(6, dim=-1)
        h_BND = h_BND + gate1 * self.attn(modulate(self.norm1(h_BND), shift1, scale1), rotary)
        out: Tensor = h_BND + gate2 * self.mlp(modulate(self.norm2(h_BND), shift2, scale2))
        return out


class FinalLayer(nn.Module):
    """Modulated norm and Linear from tokens to the colours of a patch."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm_final = RMSNormFloat32(dim)
        self.linear = nn.Linear(dim, out_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, h_BND: Tensor, c_B1D: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c_B1D).chunk(2, dim=-1)
        out: Tensor = self.linear(modulate(self.norm_final(h_BND), shift, scale))
        return out


class JiTClassConditional(nn.Module):
    """Clean-image network of JiT and PixelGen for class labels; t = 0 is noise, t = 1 is data."""

    def __init__(self, config: JiTClassConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.hidden_size, config.patch_size
        self.grid_size = config.input_size // patch
        self.t_embedder = TimeEmbedder(dim, period=TIME_PERIOD)
        self.y_embedder = LabelEmbedder(config.num_classes, dim)
        self.x_embedder = PatchEmbedder(config)
        self.pos_embed = nn.Parameter(
            sincos_position_code(dim, self.grid_size), requires_grad=False
        )
        if config.in_context_len:
            self.in_context_posemb = nn.Parameter(torch.zeros(1, config.in_context_len, dim))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.final_layer = FinalLayer(dim, config.in_channels * patch**2)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor) -> Tensor:
        """Predicted clean image, shaped as `x_BCHW`, not clamped.

        Args:
            x_BCHW: noisy images of side input_size.
            t_B: times in [0, 1], float32.
            labels_B: classes; num_classes is the null class.

        Raises:
            ValueError: height or width is not the size that pos_embed fixes.
        """
        check_image(x_BCHW, self.config.input_size)
        label_B1D = self.y_embedder(labels_B)[:, None]
        c_B1D = self.t_embedder(t_B)[:, None] + label_B1D
        h_BND = add_position(self.x_embedder(x_BCHW), self.pos_embed)
        h_BND = self.transform(h_BND, c_B1D, label_B1D)
        return self.unpatchify(self.final_layer(h_BND, c_B1D))

    def transform(self, h_BND: Tensor, c_B1D: Tensor, label_B1D: Tensor) -> Tensor:
        """Image tokens after all blocks; the context tokens join on the way and are dropped."""
        num_context = self.config.in_context_len
        head_dim = self.config.hidden_size // self.config.num_heads
        rotary = rotary_table_of_grid(head_dim, self.grid_size, h_BND.device)
        for i, block in enumerate(self.blocks):
            if num_context and i == self.config.in_context_start:
                context_BLD = label_B1D + self.in_context_posemb
                h_BND = torch.cat((context_BLD, h_BND), dim=1)
                rotary = leave_context_unrotated(rotary, num_context)
            h_BND = block(h_BND, c_B1D, rotary)
        return h_BND[:, num_context:]

    def unpatchify(self, patches_BNV: Tensor) -> Tensor:
        """Patches whose values are ordered (row, column, channel) => image [B, C, H, W]."""
        side, patch = self.config.input_size, self.config.patch_size
        patches_BNCS = patches_BNV.reshape(*patches_BNV.shape[:2], patch**2, -1).mT
        return join_patches(patches_BNCS, (patch, patch), (side, side))
