"""PixelDiT's class-conditional network: its 256 and 512 checkpoints have the same architecture.

Written from the description of the published network alone (Yu et al. 2025, PixelDiT: Pixel
Diffusion Transformers for Image Generation); its state-dict keys are the published checkpoints'.

Legend: B batch, N patches, D width, S pixels of a patch, X pixel width, C channels, P = B * N.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import silu

from evalsuite.models.layers import (
    EncoderBlock,
    LabelEmbedder,
    PatchEmbedder,
    TimeEmbedder,
    join_patches,
    rotary_table,
    split_patches,
)
from evalsuite.models.pixeldit.pixel_level import FinalLayer, PixelBlock, PixelEmbedder
from evalsuite.models.sizes import check_sizes

TIME_PERIOD = 10.0
ROTARY_ENDS = (16.0, 16.0)  # of patch positions, at every resolution


@dataclass(frozen=True)
class PixelDiTClassConfig:
    """Sizes of the network, under the names of the upstream constructor."""

    hidden_size: int
    num_groups: int
    patch_depth: int
    pixel_depth: int
    pixel_hidden_size: int
    patch_size: int
    num_classes: int
    in_channels: int = 3

    def __post_init__(self) -> None:
        """Refuse sizes that the architecture cannot have."""
        check_sizes(self, ("hidden_size", "num_groups"))
        if self.pixel_hidden_size % 4:
            raise ValueError("pixel_hidden_size must be a multiple of 4")


class PixelDiTClassConditional(nn.Module):
    """Velocity network of PixelDiT for class labels; t = 0 is noise, t = 1 is data."""

    def __init__(self, config: PixelDiTClassConfig) -> None:
        super().__init__()
        self.config = config
        dim, width, patch = config.hidden_size, config.pixel_hidden_size, config.patch_size
        heads = config.num_groups
        self.pixel_embedder = PixelEmbedder(config.in_channels, width, patch)
        self.s_embedder = PatchEmbedder(config.in_channels * patch**2, dim)
        self.t_embedder = TimeEmbedder(dim, period=TIME_PERIOD)
        self.y_embedder = LabelEmbedder(config.num_classes, dim)
        self.final_layer = FinalLayer(width, config.in_channels)
        self.patch_blocks = nn.ModuleList(
            EncoderBlock(dim, heads) for _ in range(config.patch_depth)
        )
        self.pixel_blocks = nn.ModuleList(
            PixelBlock(dim, width, patch, dim, heads) for _ in range(config.pixel_depth)
        )

    def forward(self, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor) -> Tensor:
        """Velocity, shaped as `x_BCHW`, at time `t_B` for `labels_B` (num_classes is null).

        Raises:
            ValueError: height or width is not a multiple of the patch size.
        """
        config, size = self.config, (x_BCHW.shape[-2], x_BCHW.shape[-1])
        patch = (config.patch_size, config.patch_size)
        patches_BNV = split_patches(x_BCHW, patch).flatten(2)
        head_dim = config.hidden_size // config.num_groups
        grid = (size[0] // patch[0], size[1] // patch[1])
        rotary = rotary_table(head_dim, *grid, ROTARY_ENDS, x_BCHW.device)

        time_B1D = self.t_embedder(t_B)[:, None]
        c_B1D = silu(time_B1D + self.y_embedder(labels_B)[:, None])
        s_BND = self.s_embedder(patches_BNV)
        for block in self.patch_blocks:
            s_BND = block(s_BND, c_B1D, rotary)
        g_PD = silu(time_B1D + s_BND).flatten(0, 1)
        p_PSX = self.pixel_embedder(x_BCHW)
        for block in self.pixel_blocks:
            p_PSX = block(p_PSX, g_PD, rotary)
        v_PSC: Tensor = self.final_layer(p_PSX)
        v_BNSC = v_PSC.reshape(len(x_BCHW), -1, *v_PSC.shape[1:])
        return join_patches(v_BNSC.transpose(2, 3), patch, size)
