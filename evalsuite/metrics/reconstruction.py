"""How near a reconstruction is to its original: PSNR and SSIM, image by image.

Legend: N pairs, C channels, H height, W width, K places of a window's side.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.config import Scalar
from evalsuite.errors import DataError

DATA_RANGE = 255
"""Between the least and the greatest level of a byte."""
WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation, in pixels, of SSIM's Gaussian window."""
K1, K2 = 0.01, 0.03
PSNR_PROTOCOL: dict[str, Scalar] = {
    "data_range": DATA_RANGE,
    "mean": "over images that differ, in dB",
}
SSIM_PROTOCOL: dict[str, Scalar] = {
    "data_range": DATA_RANGE,
    "window": f"gaussian {WINDOW} x {WINDOW}, sigma {SIGMA}",
    "constants": f"K1 {K1}, K2 {K2}",
    "borders": "valid",
    "channels": "mean of red, green and blue",
}
"""What decides the numbers, for protocols."""

Images = NDArray[np.uint8]


def psnr(images_NHWC: Images, originals_NHWC: Images) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair: 10 log10(255^2 / mean squared difference).

    The mean is over the pixels and the channels of one image, and exact.

    Args:
        images_NHWC: uint8 [N,H,W,C].
        originals_NHWC: uint8, of the same shape.

    Returns:
        float64 [N] in dB; infinite where the two are identical.

    Raises:
        ValueError: other dtypes, or shapes that differ.
    """
    _check(images_NHWC, originals_NHWC)
    squares_N = np.empty(len(images_NHWC), dtype=np.float64)
    for i, (image, original) in enumerate(zip(images_NHWC, originals_NHWC, strict=True)):
        difference = image.astype(np.int32) - original
        squares_N[i] = np.square(difference).sum(dtype=np.int64) / difference.size
    with np.errstate(divide="ignore"):
        decibels_N: NDArray[np.float64] = 10.0 * np.log10(DATA_RANGE**2 / squares_N)
    return decibels_N


def ssim(
    images_NHWC: Images, originals_NHWC: Images, device: torch.device | None = None
) -> NDArray[np.float64]:
    """Structural similarity of each pair, the mean over places of the window and channels.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004, equation 13, with their window and constants;
    covariances are the window's weighted means. Only windows that lie inside the image count. Equal
    to scikit-image's `structural_similarity(..., gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255, channel_axis=-1)`.

    Args:
        images_NHWC: uint8 [N,H,W,C].
        originals_NHWC: uint8, of the same shape.
        device: where to compute, in float64; the CPU when absent.

    Returns:
        float64 [N], at most 1, which identical images have.

    Raises:
        DataError: images that are smaller than the window.
        ValueError: other dtypes, or shapes that differ.
    """
    _check(images_NHWC, originals_NHWC)
    height, width = images_NHWC.shape[1:3]
    if min(height, width) < WINDOW:
        raise DataError(
            f"SSIM needs at least {WINDOW} x {WINDOW} pixels, these images have {height} x {width}"
        )
    device = device or torch.device("cpu")
    similarities_NC = [
        [
            _similarity(image_HW, original_HW)
            for image_HW, original_HW in zip(
                _planes(image, device), _planes(original, device), strict=True
            )
        ]
        for image, original in zip(images_NHWC, originals_NHWC, strict=True)
    ]
    return np.array([sum(row) / len(row) for row in similarities_NC], dtype=np.float64)


def _similarity(a_HW: Tensor, b_HW: Tensor) -> float:
    """Equation 13 at each place, averaged."""
    c1, c2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
    squares_HW = a_HW * a_HW + b_HW * b_HW
    mean_a, mean_b, squares, product = _blurred(
        torch.stack((a_HW, b_HW, squares_HW, a_HW * b_HW))
    ).unbind()
    means, mean_product = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
    luminance = (2 * mean_product + c1) / (means + c1)
    structure = (2 * (product - mean_product) + c2) / (squares - means + c2)
    return float((luminance * structure).mean())


def _blurred(planes_HW: Tensor) -> Tensor:
    """The window's weighted mean at each place where it lies inside the image."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights_K = (weights / weights.sum()).tolist()
    for dim in (-1, -2):
        kept = planes_HW.shape[dim] - WINDOW + 1
        sums = torch.zeros_like(planes_HW.narrow(dim, 0, kept))
        for k, weight in enumerate(weights_K):
            sums.add_(planes_HW.narrow(dim, k, kept), alpha=weight)
        planes_HW = sums
    return planes_HW


def _planes(image_HWC: Images, device: torch.device) -> Iterator[Tensor]:
    """The channels, float64 [H,W]."""
    tensor = torch.from_numpy(np.ascontiguousarray(image_HWC)).to(device)
    return (plane.contiguous().double() for plane in tensor.unbind(dim=-1))


def _check(images_NHWC: Images, originals_NHWC: Images) -> None:
    if images_NHWC.dtype != np.uint8 or originals_NHWC.dtype != np.uint8:
        raise ValueError("pairs must be uint8 images")
    if images_NHWC.ndim != 4 or images_NHWC.shape != originals_NHWC.shape:
        raise ValueError(f"no pairs: {images_NHWC.shape} and {originals_NHWC.shape}")
