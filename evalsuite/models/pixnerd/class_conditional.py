"""PixNerd's class-conditional network: a patch transformer whose tokens generate pixel networks.

Source: PixNerd (Wang et al. 2025, arXiv 2507.23268) and the public repository MCG-NJU/PixNerd at
6da060b, whose state-dict keys and float32 outputs this module reproduces (tests/golden/).

Legend: B batch, N patches (tokens), D width, S pixels of a patch, X pixel width, C channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, silu

from evalsuite.models.layers import (
    EncoderBlock,
    LabelEmbedder,
    PatchEmbedder,
    RMSNorm,
    TimeEmbedder,
    join_patches,
    rotary_table,
    split_patches,
)
from evalsuite.models.sizes import check_sizes

TIME_PERIOD = 10.0
ROTARY_RANGE = 16.0  # positions span 0..16 at every resolution
NUM_PIXEL_FREQUENCIES = 8  # per axis; 64 cosine products for each pixel


@dataclass(frozen=True)
class PixNerdClassConfig:
    """Sizes of the network, under the names of the upstream constructor."""

    hidden_size: int
    num_groups: int
    num_blocks: int
    num_cond_blocks: int
    hidden_size_x: int
    nerf_mlpratio: int
    patch_size: int
    num_classes: int
    in_channels: int = 3

    def __post_init__(self) -> None:
        """Refuse sizes that the architecture cannot have."""
        check_sizes(self, ("hidden_size", "num_groups"))
        if not 0 < self.num_cond_blocks <= self.num_blocks:
            raise ValueError("num_cond_blocks must lie in 1..num_blocks")


def pixel_position_code(patch_size: int, device: torch.device) -> Tensor:
    """Damped cosine products [S, 64] of a pixel's place in its patch, float32; x is slow."""
    place = torch.linspace(0, 1, patch_size, device=device)
    f = torch.linspace(0, NUM_PIXEL_FREQUENCIES, NUM_PIXEL_FREQUENCIES, device=device)
    waves = torch.cos(place[:, None] * f * torch.pi)
    damping = 1 / (1 + f[:, None] * f)
    code = waves[None, :, :, None] * waves[:, None, None, :] * damping
    return code.reshape(patch_size * patch_size, -1)


class PixelEmbedder(nn.Module):
    """Linear over a pixel's noisy colour and its position code."""

    def __init__(self, in_channels: int, hidden_size_x: int) -> None:
        super().__init__()
        self.embedder = nn.Sequential(
            nn.Linear(in_channels + NUM_PIXEL_FREQUENCIES**2, hidden_size_x)
        )

    def forward(self, pixels_PSC: Tensor) -> Tensor:
        patch_size = math.isqrt(pixels_PSC.shape[1])
        code_SF = pixel_position_code(patch_size, pixels_PSC.device)
        code_PSF = code_SF.expand(pixels_PSC.shape[0], -1, -1)
        out: Tensor = self.embedder(torch.cat((pixels_PSC, code_PSF), dim=-1))
        return out


class NerfBlock(nn.Module):
    """A residual two-layer network over pixels whose matrices each patch generates for itself."""

    def __init__(self, dim: int, hidden_size_x: int, ratio: int) -> None:
        super().__init__()
        self.hidden_size_x = hidden_size_x
        self.ratio = ratio
        self.param_generator1 = nn.Sequential(nn.Linear(dim, 2 * hidden_size_x**2 * ratio))
        self.norm = RMSNorm(hidden_size_x)

    def forward(self, z_PSX: Tensor, g_PD: Tensor) -> Tensor:
        width, inner = self.hidden_size_x, self.hidden_size_x * self.ratio
        first, second = self.param_generator1(g_PD).chunk(2, dim=-1)
        # in float32 under autocast too, as on CUDA; a CPU would take the norm in bfloat16
        w1 = normalize(first.float().unflatten(-1, (width, inner)), dim=-2)
        w2 = normalize(second.float().unflatten(-1, (inner, width)), dim=-2)
        return z_PSX + torch.bmm(silu(torch.bmm(self.norm(z_PSX), w1)), w2)


class FinalLayer(nn.Module):
    """Norm and Linear from pixel features to colours."""

    def __init__(self, hidden_size_x: int, out_channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden_size_x)
        self.linear = nn.Linear(hidden_size_x, out_channels)

    def forward(self, z_PSX: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(z_PSX))
        return out


class PixNerdClassConditional(nn.Module):
    """Velocity network of PixNerd for class labels; t = 0 is noise, t = 1 is data."""

    def __init__(self, config: PixNerdClassConfig) -> None:
        super().__init__()
        self.config = config
        dim, width = config.hidden_size, config.hidden_size_x
        self.x_embedder = PixelEmbedder(config.in_channels, width)
        self.s_embedder = PatchEmbedder(config.in_channels * config.patch_size**2, dim)
        self.t_embedder = TimeEmbedder(dim, period=TIME_PERIOD)
        self.y_embedder = LabelEmbedder(config.num_classes, dim)
        self.final_layer = FinalLayer(width, config.in_channels)
        num_nerf = config.num_blocks - config.num_cond_blocks
        encoder = [EncoderBlock(dim, config.num_groups) for _ in range(config.num_cond_blocks)]
        nerf = [NerfBlock(dim, width, config.nerf_mlpratio) for _ in range(num_nerf)]
        self.blocks = nn.ModuleList([*encoder, *nerf])

    def forward(self, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor) -> Tensor:
        """Velocity, shaped as `x_BCHW`, at time `t_B` for `labels_B` (num_classes is null).

        Raises:
            ValueError: height or width is not a multiple of the patch size.
        """
        size = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        patch = (self.config.patch_size, self.config.patch_size)
        cells_BNCS = split_patches(x_BCHW, patch)
        patches_BNV = cells_BNCS.flatten(2)
        pixels_PSC = cells_BNCS.transpose(2, 3).flatten(0, 1)
        grid = (size[0] // patch[0], size[1] // patch[1])

        s_BND, time_B1D = self.encode(patches_BNV, t_B, labels_B, grid)
        g_PD = silu(time_B1D + s_BND).flatten(0, 1)
        z_PSX = self.x_embedder(pixels_PSC)
        for block in self.blocks[self.config.num_cond_blocks :]:
            z_PSX = block(z_PSX, g_PD)
        v_PSC: Tensor = self.final_layer(z_PSX)
        v_BNCS = v_PSC.transpose(1, 2).reshape(cells_BNCS.shape)
        return join_patches(v_BNCS, patch, size)

    def encode(
        self, patches_BNV: Tensor, t_B: Tensor, labels_B: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Tokens after the encoder blocks [B, N, D] and the time embedding [B, 1, D]."""
        head_dim = self.config.hidden_size // self.config.num_groups
        rotary = rotary_table(head_dim, *grid, (ROTARY_RANGE, ROTARY_RANGE), patches_BNV.device)
        time_B1D = self.t_embedder(t_B)[:, None]
        c_B1D = silu(time_B1D + self.y_embedder(labels_B)[:, None])
        s_BND = self.s_embedder(patches_BNV)
        for block in self.blocks[: self.config.num_cond_blocks]:
            s_BND = block(s_BND, c_B1D, rotary)
        return s_BND, time_B1D
