"""PSNR and SSIM: known values, an oracle of loops, scikit-image's numbers, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.reconstruction import psnr, ssim

Images = NDArray[np.uint8]

SCIKIT_IMAGE = {
    (11, 11, 3): (0.9871452846500736, 42.42653217409017),
    (32, 48, 10): (0.93452554412548, 31.941044029033204),
    (64, 64, 60): (0.5400477271213872, 17.154804357731468),
    (40, 13, 200): (0.10964574191046612, 8.96736096491293),
}
"""(height, width, noise): `structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
use_sample_covariance=False, data_range=255, channel_axis=-1)` and `peak_signal_noise_ratio(a, b,
data_range=255)` of scikit-image 0.26.0 on `pair_of(height, width, noise)`."""


def pair_of(height: int, width: int, noise: int) -> tuple[Images, Images]:
    """Ramps and a pattern, and the same with errors of up to `noise` levels, from whole numbers."""
    y, x = np.mgrid[:height, :width]
    original = np.stack([(5 * x + 3 * y) % 256, (10 * x + 6 * y) % 256, x * y % 256], axis=-1)
    place = 7 * x[..., None] + 13 * y[..., None] + 5 * np.arange(3)
    errors = (place**2 + 11 * place) % (2 * noise + 1) - noise
    return original.astype(np.uint8), (original + errors).clip(0, 255).astype(np.uint8)


def ssim_by_loops(a_HWC: Images, b_HWC: Images) -> float:
    """Window by window, variances as weighted squares about the weighted mean."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    height, width, channels = a_HWC.shape
    values = []
    for c in range(channels):
        for top in range(height - 10):
            for left in range(width - 10):
                x = a_HWC[top : top + 11, left : left + 11, c].astype(float)
                y = b_HWC[top : top + 11, left : left + 11, c].astype(float)
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                above = (2 * mx * my + 2.55**2) * (2 * cov + 7.65**2)
                values.append(above / ((mx**2 + my**2 + 2.55**2) * (vx + vy + 7.65**2)))
    return float(np.mean(values))


@pytest.mark.parametrize(("recipe", "expected"), SCIKIT_IMAGE.items())
def test_the_numbers_are_those_of_scikit_image(
    recipe: tuple[int, int, int], expected: tuple[float, float]
) -> None:
    a, b = pair_of(*recipe)
    found = (ssim(a[None], b[None])[0], psnr(a[None], b[None])[0])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(11, 11), (17, 12), (12, 23)])
def test_ssim_is_that_of_loops_over_windows(shape: tuple[int, int]) -> None:
    a, b = pair_of(*shape, noise=30)
    found = ssim(np.stack([a, b]), np.stack([b, a]))
    np.testing.assert_allclose(found, ssim_by_loops(a, b), rtol=1e-11)


@given(st.integers(1, 255), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_an_even_error_has_the_psnr_of_its_size(size: int, seed: int) -> None:
    """An error of d levels everywhere is 20 log10(255 / d), in either direction."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256 - size, (2, 5, 7, 3)).astype(np.uint8)
    high = (low + size).astype(np.uint8)
    expected = 20 * math.log10(255 / size)
    np.testing.assert_allclose(psnr(low, high), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(psnr(low, high), psnr(high, low))


def test_black_against_white() -> None:
    """The worst that there is: 0 dB, and SSIM of the first constant alone."""
    black, white = np.zeros((1, 16, 16, 3), np.uint8), np.full((1, 16, 16, 3), 255, np.uint8)
    assert psnr(black, white)[0] == 0
    assert ssim(black, white)[0] == pytest.approx(6.5025 / (255**2 + 6.5025), rel=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_ssim_is_symmetric_at_most_1_and_1_for_identical_images(seed: int) -> None:
    """And so is PSNR infinite; each pair is judged by itself."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 3, 14, 20, 3)).astype(np.uint8)
    found = ssim(a, b)
    np.testing.assert_allclose(found, ssim(b, a), rtol=1e-12)
    assert (np.abs(found) < 1).all()
    assert ssim(a, a).tolist() == [1, 1, 1]
    assert np.isinf(psnr(a, a)).all()
    assert found[1] == ssim(a[1:2], b[1:2])[0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_count_equally(channels: int) -> None:
    a, b = pair_of(20, 20, 40)
    picked = [a[..., :1], b[..., :1]]
    alike = [np.repeat(image, channels, axis=-1)[None] for image in picked]
    assert ssim(*alike)[0] == pytest.approx(ssim_by_loops(*picked), rel=1e-11)


def test_what_are_no_pairs_is_refused() -> None:
    image = np.zeros((2, 12, 12, 3), np.uint8)
    for other in (image[:1], image[:, :11], image[0]):
        for metric in (psnr, ssim):
            with pytest.raises(ValueError, match="no pairs"):
                metric(image, other)
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="uint8"):
            metric(image / 255.0, image)
    with pytest.raises(DataError, match="at least 11 x 11 pixels, these images have 12 x 10"):
        ssim(image[:, :, :10], image[:, :, :10])


def test_no_pairs_give_no_values() -> None:
    nothing = np.zeros((0, 16, 16, 3), np.uint8)
    assert len(psnr(nothing, nothing)) == len(ssim(nothing, nothing)) == 0
