"""PixelGen's text-to-image network: image tokens that attend to themselves and to refined text.

Source: PixelGen (arXiv 2602.02493) and the public repository Zehong-Ma/PixelGen at 0ccec60, whose
state-dict keys and float32 outputs this module reproduces (tests/golden/).

Legend: B batch, N patches (tokens), T text tokens, D width, V values of a patch, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from evalsuite.models.layers import TimeEmbedder, join_patches, rotary_table, split_patches
from evalsuite.models.pixelgen.layers import add_position, check_image, sincos_position_code
from evalsuite.models.sizes import check_sizes
from evalsuite.models.text_layers import ImageTextBlock, TextEmbedder, TextRefineBlock

TIME_PERIOD = 10.0
FINAL_NORM_EPS = 1e-6


@dataclass(frozen=True)
class PixelGenTextConfig:
    """Sizes of the network, under the names of the upstream constructor.

    Attributes:
        input_size: side of the image in pixels.
        num_groups: attention heads.
        num_blocks: image blocks.
        num_text_blocks: text-refining blocks.
        txt_embed_dim: width of the text encoder's features.
        txt_max_length: text tokens, padding included.
        bottleneck_dim: channels that patches are embedded through.
    """

    input_size: int
    patch_size: int
    hidden_size: int
    num_groups: int
    num_blocks: int
    num_text_blocks: int
    txt_embed_dim: int
    txt_max_length: int
    bottleneck_dim: int = 256
    in_channels: int = 3

    def __post_init__(self) -> None:
        """Refuse sizes that the architecture cannot have."""
        check_sizes(self, ("hidden_size", "num_groups"))
        if self.input_size % self.patch_size:
            raise ValueError("input_size must be a multiple of patch_size")


class PatchEmbedder(nn.Module):
    """Two Linears, through a bottleneck, over the channel-major values of a patch."""

    def __init__(self, in_dim: int, bottleneck_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.proj1 = nn.Linear(in_dim, bottleneck_dim, bias=False)
        self.proj2 = nn.Linear(bottleneck_dim, hidden_size)

    def forward(self, patches_BNV: Tensor) -> Tensor:
        out: Tensor = self.proj2(self.proj1(patches_BNV))
        return out


class FinalLayer(nn.Module):
    """Layer norm without weights, in float32, and Linear to the values of a patch."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, out_dim)

    def forward(self, h_BND: Tensor) -> Tensor:
        normalised = layer_norm(h_BND.float(), (h_BND.shape[-1],), eps=FINAL_NORM_EPS)
        out: Tensor = self.linear(normalised)
        return out


class PixelGenTextConditional(nn.Module):
    """Clean-image network of PixelGen for text features; t = 0 is noise, t = 1 is data."""

    def __init__(self, config: PixelGenTextConfig) -> None:
        super().__init__()
        self.config = config
        dim, heads = config.hidden_size, config.num_groups
        self.grid_size = config.input_size // config.patch_size
        patch_dim = config.in_channels * config.patch_size**2
        self.x_embedder = PatchEmbedder(patch_dim, config.bottleneck_dim, dim)
        self.t_embedder = TimeEmbedder(dim, period=TIME_PERIOD)
        self.y_embedder = TextEmbedder(config.txt_embed_dim, dim)
        self.pos_embed = nn.Parameter(
            sincos_position_code(dim, self.grid_size), requires_grad=False
        )
        self.y_pos_embedding = nn.Parameter(torch.zeros(1, config.txt_max_length, dim))
        self.text_refine_blocks = nn.ModuleList(
            [TextRefineBlock(dim, heads) for _ in range(config.num_text_blocks)]
        )
        self.blocks = nn.ModuleList([ImageTextBlock(dim, heads) for _ in range(config.num_blocks)])
        self.final_layer = FinalLayer(dim, patch_dim)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text_BTF: Tensor) -> Tensor:
        """Predicted clean image, shaped as `x_BCHW`, not clamped.

        Args:
            x_BCHW: noisy images of side input_size.
            t_B: times in [0, 1], float32.
            text_BTF: features of txt_max_length text tokens, padding included.

        Raises:
            ValueError: height or width is not the size that pos_embed fixes, or the text does not
                have txt_max_length tokens of txt_embed_dim features.
        """
        self._check_inputs(x_BCHW, text_BTF)
        patch, size = (self.config.patch_size,) * 2, (self.config.input_size,) * 2
        c_B1D = silu(self.t_embedder(t_B))[:, None]
        y_BTD = self.refine_text(text_BTF, c_B1D)
        patches_BNV = split_patches(x_BCHW, patch).flatten(2)
        h_BND = add_position(self.x_embedder(patches_BNV), self.pos_embed)
        grid, head_dim = self.grid_size, self.config.hidden_size // self.config.num_groups
        rotary = rotary_table(head_dim, grid, grid, (grid, grid), h_BND.device)
        for block in self.blocks:
            h_BND = block(h_BND, y_BTD, c_B1D, rotary)
        v_BNCS = self.final_layer(h_BND).unflatten(-1, (self.config.in_channels, -1))
        return join_patches(v_BNCS, patch, size)

    def refine_text(self, text_BTF: Tensor, c_B1D: Tensor) -> Tensor:
        """Text tokens that the image blocks read; they depend on the time.

        Positions are rounded to the dtype of the features, as upstream: under autocast bfloat16
        features, which upstream's text encoder gives, keep the text tokens in bfloat16.
        """
        y_BTD: Tensor = self.y_embedder(text_BTF) + self.y_pos_embedding.to(text_BTF.dtype)
        for block in self.text_refine_blocks:
            y_BTD = block(y_BTD, c_B1D)
        return y_BTD

    def _check_inputs(self, x_BCHW: Tensor, text_BTF: Tensor) -> None:
        check_image(x_BCHW, self.config.input_size)
        wanted = (self.config.txt_max_length, self.config.txt_embed_dim)
        if tuple(text_BTF.shape[1:]) != wanted:
            raise ValueError(f"text features are {tuple(text_BTF.shape[1:])}, not {wanted}")
