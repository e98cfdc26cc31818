"""LPIPS, a learned perceptual distance of two images, with weights that the user brings.

Legend: B pairs in a batch, C channels, H height, W width.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d

from evalsuite.config import canonical_json
from evalsuite.errors import DataError
from evalsuite.metrics.exact_arithmetic import exact_float32

VERSION = "0.1"
"""Of the published linear weights; those of 0.0 belong to images that are not scaled."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation on -1 to 1, as LPIPS rounds them."""
_EPSILON = 1e-10


class Backbone(NamedTuple):
    """The convolutional part of a classifier, to the last layer that is looked at.

    Attributes:
        layers: of torchvision's `features`, by their places: convolutions as (inputs, outputs,
            kernel, stride, padding), `relu`, and maxima over squares as (side, stride).
        taps: places of the layers whose outputs are compared.
        least_side: pixels that an image must have in either direction.
        batch_size: pairs of one pass, so few that images of 512 x 512 take less than 1 GB.
    """

    layers: tuple[tuple[int, ...] | str, ...]
    taps: tuple[int, ...]
    least_side: int
    batch_size: int


def _vgg_block(width_in: int, width: int, count: int) -> tuple[tuple[int, ...] | str, ...]:
    first: tuple[tuple[int, ...] | str, ...] = ((width_in, width, 3, 1, 1), "relu")
    return first + ((width, width, 3, 1, 1), "relu") * (count - 1)


BACKBONES = {
    "alex": Backbone(
        layers=(
            *((3, 64, 11, 4, 2), "relu", (3, 2)),
            *((64, 192, 5, 1, 2), "relu", (3, 2)),
            *((192, 384, 3, 1, 1), "relu"),
            *((384, 256, 3, 1, 1), "relu"),
            *((256, 256, 3, 1, 1), "relu"),
        ),
        taps=(1, 4, 7, 9, 11),
        least_side=31,
        batch_size=16,
    ),
    "vgg": Backbone(
        layers=(
            *(*_vgg_block(3, 64, 2), (2, 2)),
            *(*_vgg_block(64, 128, 2), (2, 2)),
            *(*_vgg_block(128, 256, 3), (2, 2)),
            *(*_vgg_block(256, 512, 3), (2, 2)),
            *_vgg_block(512, 512, 3),
        ),
        taps=(3, 8, 15, 22, 29),
        least_side=16,
        batch_size=2,
    ),
}
"""AlexNet of Krizhevsky 2014 and VGG16 of Simonyan and Zisserman 2014, as torchvision has them."""


def lpips_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights: torchvision's for the backbone, LPIPS's for the rest."""
    layers, taps = BACKBONES[backbone][:2]
    shapes: dict[str, tuple[int, ...]] = {}
    width, widths = 3, []
    for place, layer in enumerate(layers):
        if not isinstance(layer, str) and len(layer) == 5:
            width = layer[1]
            shapes[f"features.{place}.weight"] = (width, layer[0], layer[2], layer[2])
            shapes[f"features.{place}.bias"] = (width,)
        if place in taps:
            widths.append(width)
    lines = {f"lin{k}.model.1.weight": (1, width, 1, 1) for k, width in enumerate(widths)}
    return shapes | lines


class Lpips:
    """LPIPS 0.1 in float32, convolutions without TF32, fixed batches.

    Source: Zhang et al. 2018 (arXiv 1801.03924), equation 1; richzhang/PerceptualSimilarity.

    Attributes:
        backbone: `alex` or `vgg`.
        batch_size: pairs of one pass; every pass has exactly this many.
        weights_sha256: of the weights by name, whatever files they came in.
    """

    def __init__(self, backbone: str, weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Take `weights`, whose names and shapes must be those of `lpips_shapes`.

        Raises:
            DataError: one is missing, unknown, of another shape, or not finite.
        """
        _check(backbone, weights)
        single = {key: value.detach().float().contiguous() for key, value in weights.items()}
        self.backbone = backbone
        self.batch_size = BACKBONES[backbone].batch_size
        self.weights_sha256 = _digest(single)
        self._device = device
        self._features = _network(backbone, single).to(device)
        count = len(BACKBONES[backbone].taps)
        self._lines = [single[f"lin{k}.model.1.weight"].to(device) for k in range(count)]
        self._shift, self._scale = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (_SHIFT, _SCALE)
        )

    def __call__(
        self, images_NHWC: NDArray[np.uint8], originals_NHWC: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Distances of exactly `batch_size` pairs, uint8 [N,H,W,3].

        Returns:
            float64 [N], 0 for identical images.

        Raises:
            DataError: images that the backbone's layers shrink to nothing.
            ValueError: other dtypes, shapes, or another number of pairs.
        """
        expected = (self.batch_size, *images_NHWC.shape[1:3], 3)
        for images in (images_NHWC, originals_NHWC):
            if images.dtype != np.uint8 or images.shape != expected:
                raise ValueError(f"expected {self.batch_size} pairs of uint8 RGB images")
        least = BACKBONES[self.backbone].least_side
        if min(images_NHWC.shape[1:3]) < least:
            raise DataError(
                f"LPIPS ({self.backbone}) needs at least {least} x {least} pixels, these images"
                f" have {images_NHWC.shape[1]} x {images_NHWC.shape[2]}"
            )
        with exact_float32(self._device):
            pairs = zip(self._taps(images_NHWC), self._taps(originals_NHWC), strict=True)
            distance_B = torch.zeros(self.batch_size, dtype=torch.float64, device=self._device)
            for line, (a_BCHW, b_BCHW) in zip(self._lines, pairs, strict=True):
                squares_BCHW = _unit(a_BCHW).sub_(_unit(b_BCHW)).square_()
                distance_B += conv2d(squares_BCHW, line).double().mean(dim=(1, 2, 3))
        result: NDArray[np.float64] = distance_B.cpu().numpy()
        return result

    def _taps(self, images_NHWC: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Outputs of the layers that are compared."""
        images = torch.from_numpy(np.ascontiguousarray(images_NHWC)).to(self._device)
        h = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        h = (h - self._shift) / self._scale
        taps = BACKBONES[self.backbone].taps
        for place, layer in enumerate(self._features):
            h = layer(h)
            if place in taps:
                yield h


def _unit(h_BCHW: Tensor) -> Tensor:
    """Channels at each place as a vector of length 1, or 0; a new tensor."""
    unit_BCHW: Tensor = h_BCHW / (torch.linalg.vector_norm(h_BCHW, dim=1, keepdim=True) + _EPSILON)
    return unit_BCHW


def _network(backbone: str, weights: Mapping[str, Tensor]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in BACKBONES[backbone].layers:
        if isinstance(layer, str):
            layers.append(nn.ReLU(inplace=True))
        elif len(layer) == 2:
            layers.append(nn.MaxPool2d(layer[0], layer[1]))
        else:
            inputs, outputs, kernel, stride, padding = layer
            layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding))
    network = nn.Sequential(*layers)
    prefix = "features."
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _check(backbone: str, weights: Mapping[str, Tensor]) -> None:
    expected = lpips_shapes(backbone)
    for key in sorted(expected.keys() | weights.keys()):
        if key not in expected:
            raise DataError(f"weights of LPIPS ({backbone}): {key} is not one of its weights")
        if key not in weights:
            raise DataError(f"weights of LPIPS ({backbone}): {key} is missing")
        if tuple(weights[key].shape) != expected[key]:
            raise DataError(
                f"weights of LPIPS ({backbone}): {key} is {tuple(weights[key].shape)}, not"
                f" {expected[key]}: it is of another network"
            )
        if not bool(torch.isfinite(weights[key]).all()):
            raise DataError(f"weights of LPIPS ({backbone}): {key} has NaN or infinite values")


def _digest(weights: Mapping[str, Tensor]) -> str:
    digests = {
        key: hashlib.sha256(value.cpu().numpy().astype("<f4").tobytes()).hexdigest()
        for key, value in weights.items()
    }
    return hashlib.sha256(canonical_json(digests)).hexdigest()
