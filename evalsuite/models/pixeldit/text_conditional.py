"""PixelDiT's text-conditional network, in upstream's own time: 1000 is noise, 0 is data.

Written from the description of the published network alone (Yu et al. 2025, PixelDiT: Pixel
Diffusion Transformers for Image Generation); its state-dict keys are the published checkpoint's.

Legend: B batch, N patches (image tokens), M text tokens, F width of the text encoder, D width,
K head width, S pixels of a patch, X pixel width, C channels, P = B * N.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from evalsuite.models.layers import (
    PatchEmbedder,
    RMSNorm,
    SwiGLU,
    TimeEmbedder,
    attend,
    join_patches,
    modulate,
    rotary_table,
    rotate_pairs,
    split_heads,
    split_patches,
)
from evalsuite.models.pixeldit.pixel_level import FinalLayer, PixelBlock, PixelEmbedder
from evalsuite.models.sizes import check_sizes

TIME_PERIOD = 10.0
ROTARY_ENDS = (16.0, 16.0)  # of patch positions, at every resolution
TEXT_THETA = 10000.0


@dataclass(frozen=True)
class PixelDiTTextConfig:
    """Sizes of the network, under the names of the upstream constructor.

    Attributes:
        pixel_attn_hidden_size: width of the pixel blocks' attention, of `pixel_num_groups` heads.
    """

    hidden_size: int
    num_groups: int
    patch_depth: int
    pixel_depth: int
    pixel_hidden_size: int
    pixel_attn_hidden_size: int
    pixel_num_groups: int
    patch_size: int
    txt_embed_dim: int
    txt_max_length: int
    in_channels: int = 3

    def __post_init__(self) -> None:
        """Refuse sizes that the architecture cannot have."""
        pixel_heads = ("pixel_attn_hidden_size", "pixel_num_groups")
        check_sizes(self, ("hidden_size", "num_groups"), pixel_heads)
        if self.pixel_hidden_size % 4:
            raise ValueError("pixel_hidden_size must be a multiple of 4")


def text_rotary_table(head_dim: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [M, head_dim / 2] of text positions 0, 1, 2, ...; float32."""
    powers = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    positions = torch.arange(length, device=device).float()
    angles = torch.outer(positions, 1.0 / TEXT_THETA**powers)
    return angles.cos(), angles.sin()


class TextEmbedder(nn.Module):
    """Linear from the text encoder's features to the network's width, then a norm."""

    def __init__(self, in_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, hidden_size)
        self.norm = RMSNorm(hidden_size)

    def forward(self, text_BMF: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(text_BMF))
        return out


class JointAttention(nn.Module):
    """Attention over text and image tokens together, text first, each with its own weights.

    Nothing is masked: padding is attended.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv_x = nn.Linear(dim, 3 * dim, bias=False)
        self.qkv_y = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm_x = RMSNorm(head_dim)
        self.k_norm_x = RMSNorm(head_dim)
        self.q_norm_y = RMSNorm(head_dim)
        self.k_norm_y = RMSNorm(head_dim)
        self.proj_x = nn.Linear(dim, dim)
        self.proj_y = nn.Linear(dim, dim)

    def forward(
        self,
        u_BND: Tensor,
        y_BMD: Tensor,
        rotary_x: tuple[Tensor, Tensor],
        rotary_y: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Updates of the image and the text tokens."""
        q_x, k_x, v_x = split_heads(self.qkv_x(u_BND), 3, self.num_heads)
        q_y, k_y, v_y = split_heads(self.qkv_y(y_BMD), 3, self.num_heads)
        q_x = rotate_pairs(self.q_norm_x(q_x), *rotary_x)
        k_x = rotate_pairs(self.k_norm_x(k_x), *rotary_x)
        q_y = rotate_pairs(self.q_norm_y(q_y), *rotary_y)
        k_y = rotate_pairs(self.k_norm_y(k_y), *rotary_y)
        q, k, v = (torch.cat(pair, dim=2) for pair in ((q_y, q_x), (k_y, k_x), (v_y, v_x)))
        attended = attend(q, k, v)
        length = y_BMD.shape[1]
        return self.proj_x(attended[:, length:]), self.proj_y(attended[:, :length])


class JointBlock(nn.Module):
    """A modulated transformer block in which image (x) and text (y) meet only in the attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        hidden_dim = int(2 * (4 * dim) / 3)
        self.norm_x1 = RMSNorm(dim)
        self.norm_y1 = RMSNorm(dim)
        self.attn = JointAttention(dim, num_heads)
        self.norm_x2 = RMSNorm(dim)
        self.norm_y2 = RMSNorm(dim)
        self.mlp_x = SwiGLU(dim, hidden_dim)
        self.mlp_y = SwiGLU(dim, hidden_dim)
        self.adaLN_modulation_img = nn.Sequential(nn.Linear(dim, 6 * dim))
        self.adaLN_modulation_txt = nn.Sequential(nn.Linear(dim, 6 * dim))

    def forward(
        self,
        s_BND: Tensor,
        y_BMD: Tensor,
        c_B1D: Tensor,
        rotary_x: tuple[Tensor, Tensor],
        rotary_y: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Image and text tokens after the block."""
        shift_x1, scale_x1, gate_x1, *second_x = self.adaLN_modulation_img(c_B1D).chunk(6, dim=-1)
        shift_y1, scale_y1, gate_y1, *second_y = self.adaLN_modulation_txt(c_B1D).chunk(6, dim=-1)
        image, text = self.attn(
            modulate(self.norm_x1(s_BND), shift_x1, scale_x1),
            modulate(self.norm_y1(y_BMD), shift_y1, scale_y1),
            rotary_x,
            rotary_y,
        )
        s_BND = s_BND + gate_x1 * image
        y_BMD = y_BMD + gate_y1 * text
        shift_x2, scale_x2, gate_x2 = second_x
        shift_y2, scale_y2, gate_y2 = second_y
        s_BND = s_BND + gate_x2 * self.mlp_x(modulate(self.norm_x2(s_BND), shift_x2, scale_x2))
        y_BMD = y_BMD + gate_y2 * self.mlp_y(modulate(self.norm_y2(y_BMD), shift_y2, scale_y2))
        return s_BND, y_BMD


class PixelDiTTextConditional(nn.Module):
    """Upstream's velocity network for text features: noise minus image, time 0..1000."""

    def __init__(self, config: PixelDiTTextConfig) -> None:
        super().__init__()
        self.config = config
        dim, width, patch = config.hidden_size, config.pixel_hidden_size, config.patch_size
        attention = (config.pixel_attn_hidden_size, config.pixel_num_groups)
        self.pixel_embedder = PixelEmbedder(config.in_channels, width, patch)
        self.s_embedder = PatchEmbedder(config.in_channels * patch**2, dim)
        self.t_embedder = TimeEmbedder(dim, period=TIME_PERIOD)
        self.y_embedder = TextEmbedder(config.txt_embed_dim, dim)
        self.y_pos_embedding = nn.Parameter(torch.zeros(1, config.txt_max_length, dim))
        self.final_layer = FinalLayer(width, config.in_channels)
        self.patch_blocks = nn.ModuleList(
            JointBlock(dim, config.num_groups) for _ in range(config.patch_depth)
        )
        self.pixel_blocks = nn.ModuleList(
            PixelBlock(dim, width, patch, *attention) for _ in range(config.pixel_depth)
        )

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text_BMF: Tensor) -> Tensor:
        """Noise minus image, shaped as `x_BCHW`, for the text encoder's features.

        Args:
            x_BCHW: noisy images; float32 under bfloat16 autocast too.
            t_B: upstream's time, 1000 (noise) to 0 (data), float32: rounded to bfloat16 it is
                another time, in steps of 4 above 512.
            text_BMF: at most `txt_max_length` tokens; padding takes part.

        Raises:
            ValueError: the text is too long, or height or width is not a multiple of the patch
                size.
        """
        config, size = self.config, (x_BCHW.shape[-2], x_BCHW.shape[-1])
        patch = (config.patch_size, config.patch_size)
        patches_BNV = split_patches(x_BCHW, patch).flatten(2)
        grid = (size[0] // patch[0], size[1] // patch[1])

        time_B1D = self.t_embedder(t_B)[:, None]
        s_BND = self.encode(patches_BNV, time_B1D, text_BMF, grid)
        g_PD = silu(time_B1D + s_BND).flatten(0, 1)
        p_PSX = self.pixel_embedder(x_BCHW)
        head_dim = config.pixel_attn_hidden_size // config.pixel_num_groups
        rotary = rotary_table(head_dim, *grid, ROTARY_ENDS, x_BCHW.device)
        for block in self.pixel_blocks:
            p_PSX = block(p_PSX, g_PD, rotary)
        v_PSC: Tensor = self.final_layer(p_PSX)
        v_BNSC = v_PSC.reshape(len(x_BCHW), -1, *v_PSC.shape[1:])
        return join_patches(v_BNSC.transpose(2, 3), patch, size)

    def encode(
        self, patches_BNV: Tensor, time_B1D: Tensor, text_BMF: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Image tokens [B, N, D] after the joint blocks."""
        config, length = self.config, text_BMF.shape[1]
        if length > config.txt_max_length:
            raise ValueError(f"{length} text tokens, more than {config.txt_max_length}")
        head_dim = config.hidden_size // config.num_groups
        rotary_x = rotary_table(head_dim, *grid, ROTARY_ENDS, patches_BNV.device)
        rotary_y = text_rotary_table(head_dim, length, patches_BNV.device)
        c_B1D = silu(time_B1D)
        s_BND: Tensor = self.s_embedder(patches_BNV)
        y_BMD = self.y_embedder(text_BMF) + self.y_pos_embedding[:, :length]
        for block in self.patch_blocks:
            s_BND, y_BMD = block(s_BND, y_BMD, c_B1D, rotary_x, rotary_y)
        return s_BND
