"""What PixelGen's class-conditional and text-conditional networks share beyond `models/layers.py`.

Legend: B batch, N tokens, D width, G side of the token grid.
"""

import torch
from torch import Tensor

POSITION_PERIOD = 10000.0


def check_image(x_BCHW: Tensor, input_size: int) -> None:
    """Refuse an image that is not square of side `input_size`, which pos_embed fixes.

    Raises:
        ValueError: another height or width.
    """
    height, width = x_BCHW.shape[-2:]
    if (height, width) != (input_size, input_size):
        raise ValueError(
            f"size {height}x{width} is not the {input_size}x{input_size} of the weights"
        )


def sincos_position_code(hidden_size: int, grid_size: int) -> Tensor:
    """Fixed codes [1, G * G, D] of a square grid of tokens, rows first, float32.

    The column is in the first half of the channels and the row in the second; each half holds
    sines, then cosines. Computed in float64.
    """
    powers = torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size / 4)
    places = torch.arange(grid_size, dtype=torch.float64)
    angles = torch.outer(places, 1 / POSITION_PERIOD**powers)
    code = torch.cat((angles.sin(), angles.cos()), dim=-1)
    columns, rows = code.repeat(grid_size, 1), code.repeat_interleave(grid_size, dim=0)
    return torch.cat((columns, rows), dim=-1).float()[None]


def add_position(u_BND: Tensor, code_1ND: Tensor) -> Tensor:
    """Sum in float32, rounded back to the dtype of `u_BND`."""
    return (u_BND + code_1ND).to(u_BND.dtype)
