"""PixNerd's text-conditional network, whose decoder patches may grow while its encoder's stay.

Source: PixNerd (Wang et al. 2025, arXiv 2507.23268) and the public repository MCG-NJU/PixNerd at
6da060b (the "heavy decoder" network), whose state-dict keys and float32 outputs this module
reproduces (tests/golden/).

Legend: B batch, N patches (image tokens), M text tokens, F width of the text encoder, D width,
S pixels of a decoder patch, X pixel width, C channels, P = B * N.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, silu

from evalsuite.models.layers import (
    PatchEmbedder,
    RMSNormFloat32,
    TimeEmbedder,
    join_patches,
    rotary_table,
    split_patches,
)
from evalsuite.models.sizes import check_sizes
from evalsuite.models.text_layers import ImageTextBlock, TextEmbedder, TextRefineBlock

TIME_PERIOD = 10.0
NERF_RATIO = 2
NUM_PIXEL_CODES = 64  # cosines for each pixel: 32 frequencies, x and y in turn


@dataclass(frozen=True)
class PixNerdTextConfig:
    """Sizes of the network, under the names of the upstream constructor.

    Attributes:
        pixel_range: pixel positions of a decoder patch span 0..pixel_range on both axes; 16 in the
            released network, `patch_size` in its pretraining variant (equal at patch 16).
        base_size: side in pixels of the square that the encoder always sees, whatever the image's
            size (512 in upstream's demonstration); None: the encoder sees the image as it is.
    """

    hidden_size: int
    num_groups: int
    num_encoder_blocks: int
    num_decoder_blocks: int
    num_text_blocks: int
    decoder_hidden_size: int
    patch_size: int
    txt_embed_dim: int
    txt_max_length: int
    in_channels: int = 3
    pixel_range: int = 16
    base_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that the architecture cannot have."""
        check_sizes(self, ("hidden_size", "num_groups"))
        if self.base_size is not None and self.base_size % self.patch_size:
            raise ValueError("base_size must be a multiple of patch_size")

    @property
    def multiple_of(self) -> int:
        """What image height and width must be multiples of: patches, or the grid of `base_size`."""
        return self.patch_size if self.base_size is None else self.base_size // self.patch_size


@dataclass(frozen=True)
class PatchGeometry:
    """What the encoder sees of an image, and the decoder's patches; all (height, width)."""

    encoder_size: tuple[int, int]
    decoder_patch: tuple[int, int]


def patch_geometry(
    size: tuple[int, int], patch_size: int, scaling: tuple[float, float]
) -> PatchGeometry:
    """Both networks' view of an image whose decoder patches are `scaling` times `patch_size`.

    Source: upstream's `decoder_patch_scaling_h` and `_w`, rounded down as there.

    Raises:
        ValueError: encoder and decoder would not see the same whole number of patches.
    """
    if min(scaling) <= 0:
        raise ValueError(f"decoder_patch_scaling must be positive, not {scaling}")
    encoder = (int(size[0] / scaling[0]), int(size[1] / scaling[1]))
    patch = (int(patch_size * scaling[0]), int(patch_size * scaling[1]))
    for seen, side, pixels in zip(encoder, patch, size, strict=True):
        if not side or seen % patch_size or seen // patch_size * side != pixels:
            raise ValueError(
                f"size {size[0]}x{size[1]} with scaling {scaling[0]:g}, {scaling[1]:g} is not a "
                f"multiple of its decoder patch {patch[0]}x{patch[1]}: the encoder would see "
                f"{encoder[0]}x{encoder[1]} in patches of {patch_size}"
            )
    return PatchGeometry(encoder, patch)


def pixel_position_code(patch: tuple[int, int], span: float, device: torch.device) -> Tensor:
    """Cosines [S, 64] of a rotary table over the pixels of a patch, positions 0..span; float32."""
    return rotary_table(2 * NUM_PIXEL_CODES, *patch, (span, span), device)[0]


class PixelEmbedder(nn.Module):
    """Linear over a pixel's noisy colour and its position code."""

    def __init__(self, in_channels: int, decoder_hidden_size: int, pixel_range: int) -> None:
        super().__init__()
        self.pixel_range = pixel_range
        self.embedder = nn.Sequential(nn.Linear(in_channels + NUM_PIXEL_CODES, decoder_hidden_size))

    def forward(self, pixels_PSC: Tensor, patch: tuple[int, int]) -> Tensor:
        code_SK = pixel_position_code(patch, self.pixel_range, pixels_PSC.device)
        code_PSK = code_SK.to(pixels_PSC.dtype).expand(len(pixels_PSC), -1, -1)
        out: Tensor = self.embedder(torch.cat((pixels_PSC, code_PSK), dim=-1))
        return out


class NerfBlock(nn.Module):
    """A residual two-layer network over pixels whose matrices each patch generates for itself.

    Unlike the class-conditional network's block it normalises only the first matrix.
    """

    def __init__(self, dim: int, decoder_hidden_size: int) -> None:
        super().__init__()
        self.width = decoder_hidden_size
        generated = 2 * NERF_RATIO * decoder_hidden_size**2
        self.param_generator1 = nn.Sequential(nn.Linear(dim, generated))
        self.norm = RMSNormFloat32(decoder_hidden_size)

    def forward(self, z_PSX: Tensor, g_PD: Tensor) -> Tensor:
        first, second = self.param_generator1(g_PD).chunk(2, dim=-1)
        # in float32 under autocast too, as on CUDA; a CPU would take the norm in bfloat16
        w1 = normalize(first.float().unflatten(-1, (self.width, NERF_RATIO * self.width)), dim=-2)
        w2 = second.unflatten(-1, (NERF_RATIO * self.width, self.width))
        return z_PSX + torch.bmm(silu(torch.bmm(self.norm(z_PSX), w1)), w2)


class FinalLayer(nn.Module):
    """Linear from pixel features to colours, without a norm."""

    def __init__(self, decoder_hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(decoder_hidden_size, out_channels)

    def forward(self, z_PSX: Tensor) -> Tensor:
        out: Tensor = self.linear(z_PSX)
        return out


class PixNerdTextConditional(nn.Module):
    """Velocity network of PixNerd for text features; t = 0 is noise, t = 1 is data."""

    def __init__(self, config: PixNerdTextConfig) -> None:
        super().__init__()
        self.config = config
        dim, width, heads = config.hidden_size, config.decoder_hidden_size, config.num_groups
        self.s_embedder = PatchEmbedder(config.in_channels * config.patch_size**2, dim)
        self.x_embedder = PixelEmbedder(config.in_channels, width, config.pixel_range)
        self.t_embedder = TimeEmbedder(dim, period=TIME_PERIOD)
        self.y_embedder = TextEmbedder(config.txt_embed_dim, dim)
        self.y_pos_embedding = nn.Parameter(torch.zeros(1, config.txt_max_length, dim))
        self.final_layer = FinalLayer(width, config.in_channels)
        encoder = [ImageTextBlock(dim, heads) for _ in range(config.num_encoder_blocks)]
        decoder = [NerfBlock(dim, width) for _ in range(config.num_decoder_blocks)]
        self.blocks = nn.ModuleList([*encoder, *decoder])
        refine = [TextRefineBlock(dim, heads) for _ in range(config.num_text_blocks)]
        self.text_refine_blocks = nn.ModuleList(refine)

    def forward(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        text_BMF: Tensor,
        decoder_patch_scaling: tuple[float, float] | None = None,
    ) -> Tensor:
        """Velocity, shaped as `x_BCHW`, at time `t_B` for the text encoder's features.

        Args:
            x_BCHW: noisy images; float32 under bfloat16 autocast too.
            t_B: times, float32.
            text_BMF: exactly `txt_max_length` tokens; padding takes part. Under autocast the text
                tokens keep its dtype: bfloat16 as published, or float32.
            decoder_patch_scaling: (height, width) of a decoder patch in units of `patch_size`, by
                which the encoder's view shrinks; None: what `base_size` makes of the image's size.

        Raises:
            ValueError: the text's length is not the network's, or the size is no whole number of
                patches.
        """
        config = self.config
        if text_BMF.shape[1] != config.txt_max_length:
            raise ValueError(f"{text_BMF.shape[1]} text tokens, not {config.txt_max_length}")
        size = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        scaling = decoder_patch_scaling or self.scaling_for(size)
        geometry = patch_geometry(size, config.patch_size, scaling)

        time_B1D = self.t_embedder(t_B)[:, None]
        s_BND = self.encode(interpolate(x_BCHW, geometry.encoder_size), time_B1D, text_BMF)
        g_PD = silu(time_B1D + s_BND).flatten(0, 1)
        pixels_BNCS = split_patches(x_BCHW, geometry.decoder_patch)
        pixels_PSC = pixels_BNCS.flatten(0, 1).transpose(1, 2)
        z_PSX = self.x_embedder(pixels_PSC, geometry.decoder_patch)
        for block in self.blocks[config.num_encoder_blocks :]:
            z_PSX = block(z_PSX, g_PD)
        v_PSC: Tensor = self.final_layer(z_PSX)
        v_BNCS = v_PSC.transpose(1, 2).reshape(pixels_BNCS.shape)
        return join_patches(v_BNCS, geometry.decoder_patch, size)

    def scaling_for(self, size: tuple[int, int]) -> tuple[float, float]:
        """Scaling of the decoder's patches that shows the encoder `base_size` pixels a side."""
        base = self.config.base_size
        return (1.0, 1.0) if base is None else (size[0] / base, size[1] / base)

    def encode(self, x_BCHW: Tensor, time_B1D: Tensor, text_BMF: Tensor) -> Tensor:
        """Image tokens [B, N, D] after the text and encoder blocks."""
        config = self.config
        c_B1D = silu(time_B1D)
        y_BMD = self.y_embedder(text_BMF) + self.y_pos_embedding.to(text_BMF.dtype)
        for block in self.text_refine_blocks:
            y_BMD = block(y_BMD, c_B1D)

        patch = (config.patch_size, config.patch_size)
        height, width = x_BCHW.shape[-2] // patch[0], x_BCHW.shape[-1] // patch[1]
        head_dim = config.hidden_size // config.num_groups
        # Upstream spans x by the number of rows and y by that of columns; so do its weights.
        ends = (float(height), float(width))
        rotary = rotary_table(head_dim, height, width, ends, x_BCHW.device)
        s_BND: Tensor = self.s_embedder(split_patches(x_BCHW, patch).flatten(2))
        for block in self.blocks[: config.num_encoder_blocks]:
            s_BND = block(s_BND, y_BMD, c_B1D, rotary)
        return s_BND
