"""PixelDiT's pixel level, which its class- and text-conditional networks share.

Written from the description of the published network alone; its float32 outputs are the goldens.

Legend: B batch, N patches, S pixels of a patch, X pixel width, D width of the patch level,
A width of the pixel level's attention, C channels, P = B * N.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from evalsuite.models.layers import Attention, RMSNorm, modulate, split_patches

MLP_RATIO = 4


def pixel_position_code(size: tuple[int, int], dim: int, device: torch.device) -> Tensor:
    """Sinusoids [H, W, dim] of a pixel's place in the image: columns, then rows; sines first.

    Angles are pixels times 10000^(-k / (dim / 4)), k = 0 .. dim/4 - 1; float64.
    """
    steps = torch.arange(dim // 4, dtype=torch.float64, device=device)
    frequencies = 10000.0 ** (-steps / (dim // 4))
    rows, columns = (
        torch.outer(torch.arange(n, dtype=torch.float64, device=device), frequencies) for n in size
    )
    code_column = torch.cat((columns.sin(), columns.cos()), dim=-1).expand(size[0], -1, -1)
    code_row = torch.cat((rows.sin(), rows.cos()), dim=-1)[:, None].expand(-1, size[1], -1)
    return torch.cat((code_column, code_row), dim=-1)


class PixelEmbedder(nn.Module):
    """Linear over a pixel's noisy colour plus the code of its place in the image."""

    def __init__(self, in_channels: int, pixel_hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.patch = (patch_size, patch_size)
        self.proj = nn.Linear(in_channels, pixel_hidden_size)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pixel features [P, S, X] of an image whose size is a multiple of the patch's."""
        size = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        pixels_BNSC = split_patches(x_BCHW, self.patch).transpose(2, 3)
        code_HWX = pixel_position_code(size, self.proj.out_features, x_BCHW.device)
        code_1XHW = code_HWX.to(x_BCHW.dtype).permute(2, 0, 1)[None]
        code_1NSX = split_patches(code_1XHW, self.patch).transpose(2, 3)
        out: Tensor = (self.proj(pixels_BNSC) + code_1NSX).flatten(0, 1)
        return out


class PixelMLP(nn.Module):
    """Linear, exact (erf) GELU, Linear over the features of one pixel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(u)))
        return out


class PixelBlock(nn.Module):
    """Attention over patches, each compacted to one token, then a feed-forward over pixels.

    Both are modulated and gated for each pixel by what its patch's token generates.
    """

    def __init__(
        self, dim: int, pixel_dim: int, patch_size: int, attention_dim: int, num_heads: int
    ) -> None:
        super().__init__()
        self.num_pixels = patch_size**2
        self.compress_to_attn = nn.Linear(self.num_pixels * pixel_dim, attention_dim)
        self.expand_from_attn = nn.Linear(attention_dim, self.num_pixels * pixel_dim)
        self.norm1 = RMSNorm(pixel_dim)
        self.attn = Attention(attention_dim, num_heads)
        self.norm2 = RMSNorm(pixel_dim)
        self.mlp = PixelMLP(pixel_dim)
        self.adaLN_modulation = nn.Sequential(nn.Linear(dim, 6 * pixel_dim * self.num_pixels))

    def forward(self, p_PSX: Tensor, g_PD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Pixel features [P, S, X]; the angles in `rotary` are those of an image's N patches."""
        modulation = self.adaLN_modulation(g_PD).unflatten(-1, (self.num_pixels, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        z_PV = modulate(self.norm1(p_PSX), shift1, scale1).flatten(1)
        tokens_BNA = self.compress_to_attn(z_PV).unflatten(0, (-1, len(rotary[0])))
        attended_BNV = self.expand_from_attn(self.attn(tokens_BNA, rotary))
        p_PSX = p_PSX + gate1 * attended_BNV.reshape(p_PSX.shape)
        out: Tensor = p_PSX + gate2 * self.mlp(modulate(self.norm2(p_PSX), shift2, scale2))
        return out


class FinalLayer(nn.Module):
    """Norm and Linear from pixel features to colours."""

    def __init__(self, pixel_hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(pixel_hidden_size)
        self.linear = nn.Linear(pixel_hidden_size, out_channels)

    def forward(self, p_PSX: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(p_PSX))
        return out
