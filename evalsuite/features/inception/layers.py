"""The convolutions of Inception-2015-12-05 under both of their names, with every shape.

Source: the layer table of `classify_image_graph_def.pb`, whose modules torch-fidelity and
pytorch-fid named after torchvision. `scope` is the name in the graph, `module` that in a state
dict. Channels are those of the full network; a narrower twin divides all of them but RGB.
"""

from typing import NamedTuple

IMAGE_SIZE = 299
IMAGE_CHANNELS = 3
POOL_WIDTH = 2048
NUM_CLASSES = 1008
SPATIAL_SIZE = 17
SPATIAL_CHANNELS = 7
SPATIAL_WIDTH = SPATIAL_SIZE * SPATIAL_SIZE * SPATIAL_CHANNELS
BATCH_NORM_EPSILON = 0.001

Kernel = tuple[int, int]
_Row = tuple[str, str, Kernel, int, int]


class Layer(NamedTuple):
    """One convolution, with batch norm and ReLU behind it."""

    scope: str
    module: str
    kernel: Kernel
    """Height and width."""
    channels_in: int
    channels_out: int
    size_in: int
    """Height and width of what goes in."""
    stride: int = 1
    padded: bool = True
    """Zeros around, so that stride 1 keeps the size ("SAME"); else none ("VALID")."""

    @property
    def padding(self) -> Kernel:
        """Zeros on each side, vertical and horizontal."""
        height, width = self.kernel
        return (height // 2, width // 2) if self.padded else (0, 0)


def _block(
    scope: str, module: str, size: int, rows: tuple[_Row, ...], shrinking: tuple[str, ...] = ()
) -> tuple[Layer, ...]:
    """The layers of a block; those in `shrinking` have stride 2 and no padding."""
    return tuple(
        Layer(
            scope=f"{scope}/{tail}",
            module=f"{module}.{branch}",
            kernel=kernel,
            channels_in=channels_in,
            channels_out=channels_out,
            size_in=size,
            stride=2 if branch in shrinking else 1,
            padded=branch not in shrinking,
        )
        for tail, branch, kernel, channels_in, channels_out in rows
    )


def _block_5(scope: str, module: str, width: int, width_pool: int) -> tuple[Layer, ...]:
    """35 x 35: a 1 x 1, a 5 x 5 and a double 3 x 3 convolution, and an average pool."""
    rows: tuple[_Row, ...] = (
        ("conv", "branch1x1", (1, 1), width, 64),
        ("tower/conv", "branch5x5_1", (1, 1), width, 48),
        ("tower/conv_1", "branch5x5_2", (5, 5), 48, 64),
        ("tower_1/conv", "branch3x3dbl_1", (1, 1), width, 64),
        ("tower_1/conv_1", "branch3x3dbl_2", (3, 3), 64, 96),
        ("tower_1/conv_2", "branch3x3dbl_3", (3, 3), 96, 96),
        ("tower_2/conv", "branch_pool", (1, 1), width, width_pool),
    )
    return _block(scope, module, 35, rows)


def _block_6(scope: str, module: str, inner: int) -> tuple[Layer, ...]:
    """17 x 17: 7 x 7 convolutions as pairs of 1 x 7 and 7 x 1, and an average pool."""
    rows: tuple[_Row, ...] = (
        ("conv", "branch1x1", (1, 1), 768, 192),
        ("tower/conv", "branch7x7_1", (1, 1), 768, inner),
        ("tower/conv_1", "branch7x7_2", (1, 7), inner, inner),
        ("tower/conv_2", "branch7x7_3", (7, 1), inner, 192),
        ("tower_1/conv", "branch7x7dbl_1", (1, 1), 768, inner),
        ("tower_1/conv_1", "branch7x7dbl_2", (7, 1), inner, inner),
        ("tower_1/conv_2", "branch7x7dbl_3", (1, 7), inner, inner),
        ("tower_1/conv_3", "branch7x7dbl_4", (7, 1), inner, inner),
        ("tower_1/conv_4", "branch7x7dbl_5", (1, 7), inner, 192),
        ("tower_2/conv", "branch_pool", (1, 1), 768, 192),
    )
    return _block(scope, module, 17, rows)


def _block_7(scope: str, module: str, width: int) -> tuple[Layer, ...]:
    """8 x 8: two branches that end in a 1 x 3 and a 3 x 1 convolution side by side."""
    rows: tuple[_Row, ...] = (
        ("conv", "branch1x1", (1, 1), width, 320),
        ("tower/conv", "branch3x3_1", (1, 1), width, 384),
        ("tower/mixed/conv", "branch3x3_2a", (1, 3), 384, 384),
        ("tower/mixed/conv_1", "branch3x3_2b", (3, 1), 384, 384),
        ("tower_1/conv", "branch3x3dbl_1", (1, 1), width, 448),
        ("tower_1/conv_1", "branch3x3dbl_2", (3, 3), 448, 384),
        ("tower_1/mixed/conv", "branch3x3dbl_3a", (1, 3), 384, 384),
        ("tower_1/mixed/conv_1", "branch3x3dbl_3b", (3, 1), 384, 384),
        ("tower_2/conv", "branch_pool", (1, 1), width, 192),
    )
    return _block(scope, module, 8, rows)


LAYERS: tuple[Layer, ...] = (
    Layer("conv", "Conv2d_1a_3x3", (3, 3), IMAGE_CHANNELS, 32, IMAGE_SIZE, 2, False),
    Layer("conv_1", "Conv2d_2a_3x3", (3, 3), 32, 32, 149, 1, False),
    Layer("conv_2", "Conv2d_2b_3x3", (3, 3), 32, 64, 147),
    Layer("conv_3", "Conv2d_3b_1x1", (1, 1), 64, 80, 73),
    Layer("conv_4", "Conv2d_4a_3x3", (3, 3), 80, 192, 73, 1, False),
    *_block_5("mixed", "Mixed_5b", 192, 32),
    *_block_5("mixed_1", "Mixed_5c", 256, 64),
    *_block_5("mixed_2", "Mixed_5d", 288, 64),
    *_block(
        "mixed_3",
        "Mixed_6a",
        35,
        (
            ("conv", "branch3x3", (3, 3), 288, 384),
            ("tower/conv", "branch3x3dbl_1", (1, 1), 288, 64),
            ("tower/conv_1", "branch3x3dbl_2", (3, 3), 64, 96),
            ("tower/conv_2", "branch3x3dbl_3", (3, 3), 96, 96),
        ),
        ("branch3x3", "branch3x3dbl_3"),
    ),
    *_block_6("mixed_4", "Mixed_6b", 128),
    *_block_6("mixed_5", "Mixed_6c", 160),
    *_block_6("mixed_6", "Mixed_6d", 160),
    *_block_6("mixed_7", "Mixed_6e", 192),
    *_block(
        "mixed_8",
        "Mixed_7a",
        17,
        (
            ("tower/conv", "branch3x3_1", (1, 1), 768, 192),
            ("tower/conv_1", "branch3x3_2", (3, 3), 192, 320),
            ("tower_1/conv", "branch7x7x3_1", (1, 1), 768, 192),
            ("tower_1/conv_1", "branch7x7x3_2", (1, 7), 192, 192),
            ("tower_1/conv_2", "branch7x7x3_3", (7, 1), 192, 192),
            ("tower_1/conv_3", "branch7x7x3_4", (3, 3), 192, 192),
        ),
        ("branch3x3_2", "branch7x7x3_4"),
    ),
    *_block_7("mixed_9", "Mixed_7b", 1280),
    *_block_7("mixed_10", "Mixed_7c", 2048),
)
"""All 94 of them, in the order of the graph."""
