"""The forward pass of Inception-2015-12-05, batch norm folded into its convolutions.

Where it differs from torchvision's Inception v3: average pools count real pixels only, the pool of
the last block is a maximum, and there is no auxiliary head.

Legend: B batch, C channels, H height, W width; D pooled width, P spatial width, K classes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d

from evalsuite.features.inception.layers import LAYERS, SPATIAL_CHANNELS, Layer
from evalsuite.features.inception.weights import InceptionWeights, fold

Convolve = Callable[[Tensor], Tensor]
"""A convolution, its bias and ReLU."""


class InceptionOutput(NamedTuple):
    """Pooled features [B,2048], spatial features [B,2023] (h, w, c flattened), logits [B,1008]."""

    pool_BD: Tensor
    spatial_BP: Tensor
    logits_BK: Tensor


def layout_on(device: torch.device) -> torch.memory_format:
    """Channels last on a CPU; not on a GPU, where float32 runs 1.2 times faster without (H200)."""
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


class InceptionNetwork:
    """The frozen network on one device."""

    def __init__(
        self, weights: InceptionWeights, device: torch.device, batch_size: int, dtype: torch.dtype
    ) -> None:
        """Fold and place the weights; passes of another size than `batch_size` are only slower."""
        prepare = _packed if _can_pack(device, dtype) else _plain
        self._convolve: dict[str, Convolve] = {}
        for layer in LAYERS:
            kernel, bias = (
                torch.from_numpy(array).to(device, dtype)
                for array in fold(weights.layers[layer.module])
            )
            kernel = kernel.contiguous(memory_format=layout_on(device))
            self._convolve[layer.module] = prepare(layer, kernel, bias, batch_size)
        self._classes_DK = torch.from_numpy(weights.classes_DK).to(device, torch.float64)
        self._dtype = dtype

    def __call__(self, images_BCHW: Tensor) -> InceptionOutput:
        """Features of images [B,3,299,299] in [-1, 1], float32, in the layout of `layout_on`.

        Logits are float64 sums, which no TF32 setting of the process can touch.
        """
        c = self._convolve
        x = c["Conv2d_1a_3x3"](images_BCHW.to(self._dtype))
        x = c["Conv2d_2b_3x3"](c["Conv2d_2a_3x3"](x))
        x = _shrinking_maximum(x)
        x = c["Conv2d_4a_3x3"](c["Conv2d_3b_1x1"](x))
        x = _shrinking_maximum(x)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = _block_5(_Block(c, name), x)
        x = _block_6a(_Block(c, "Mixed_6a"), x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d"):
            x = _block_6(_Block(c, name), x)
        spatial_BP = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()
        x = _block_6(_Block(c, "Mixed_6e"), x)
        x = _block_7a(_Block(c, "Mixed_7a"), x)
        x = _block_7(_Block(c, "Mixed_7b"), x, _average)
        x = _block_7(_Block(c, "Mixed_7c"), x, _maximum)
        pool_BD = x.float().mean(dim=(2, 3))
        return InceptionOutput(pool_BD, spatial_BP, pool_BD.double() @ self._classes_DK)


class _Block(NamedTuple):
    """The convolutions of one block, by the last part of their names."""

    convolve: Mapping[str, Convolve]
    name: str

    def __call__(self, x_BCHW: Tensor, *names: str) -> Tensor:
        """One convolution after the other."""
        for name in names:
            x_BCHW = self.convolve[f"{self.name}.{name}"](x_BCHW)
        return x_BCHW


def _block_5(block: _Block, x: Tensor) -> Tensor:
    return torch.cat(
        [
            block(x, "branch1x1"),
            block(x, "branch5x5_1", "branch5x5_2"),
            block(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            block(_average(x), "branch_pool"),
        ],
        dim=1,
    )


def _block_6a(block: _Block, x: Tensor) -> Tensor:
    return torch.cat(
        [
            block(x, "branch3x3"),
            block(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            _shrinking_maximum(x),
        ],
        dim=1,
    )


def _block_6(block: _Block, x: Tensor) -> Tensor:
    """Its first channels are those of `branch1x1`, of which spatial features are made."""
    return torch.cat(
        [
            block(x, "branch1x1"),
            block(x, "branch7x7_1", "branch7x7_2", "branch7x7_3"),
            block(x, *(f"branch7x7dbl_{number}" for number in range(1, 6))),
            block(_average(x), "branch_pool"),
        ],
        dim=1,
    )


def _block_7a(block: _Block, x: Tensor) -> Tensor:
    return torch.cat(
        [
            block(x, "branch3x3_1", "branch3x3_2"),
            block(x, *(f"branch7x7x3_{number}" for number in range(1, 5))),
            _shrinking_maximum(x),
        ],
        dim=1,
    )


def _block_7(block: _Block, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    single = block(x, "branch3x3_1")
    double = block(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return torch.cat(
        [
            block(x, "branch1x1"),
            block(single, "branch3x3_2a"),
            block(single, "branch3x3_2b"),
            block(double, "branch3x3dbl_3a"),
            block(double, "branch3x3dbl_3b"),
            block(pool(x), "branch_pool"),
        ],
        dim=1,
    )


def _average(x: Tensor) -> Tensor:
    """3 x 3, the size stays; TensorFlow divides by the number of real pixels."""
    return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return max_pool2d(x, 3, stride=1, padding=1)


def _shrinking_maximum(x: Tensor) -> Tensor:
    return max_pool2d(x, 3, stride=2)


def _plain(layer: Layer, kernel: Tensor, bias: Tensor, batch_size: int) -> Convolve:  # noqa: ARG001
    def convolve(x: Tensor) -> Tensor:
        return conv2d(x, kernel, bias, layer.stride, layer.padding).relu_()

    return convolve


def _can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN takes weights in its own layout here, as torch's own compiler stores them."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(layer: Layer, kernel: Tensor, bias: Tensor, batch_size: int) -> Convolve:
    """The same convolution without rearranging its weights in every pass, ReLU included."""
    stride, dilation, padding = [layer.stride] * 2, [1, 1], list(layer.padding)
    size_in = [batch_size, kernel.shape[1], layer.size_in, layer.size_in]
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        kernel, padding, stride, dilation, 1, size_in
    )

    def convolve(x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, packed, bias, padding, stride, dilation, 1, "relu", [], ""
        )
        return result

    return convolve
