"""What only a GPU can show of Inception: features near the CPU's, the resize, equal bits."""

import numpy as np
import pytest
import torch
from golden.evaluator_kit import Graph

from evalsuite.features.inception.extractor import InceptionExtractor
from evalsuite.features.inception.resize import resize_bilinear
from evalsuite.features.inception.weights import read_weights

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
FEATURES = 2e-4
RESIZED = 2e-4  # grey levels: a fused multiply-add in the coordinates


def images(height: int, width: int, count: int = 64) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (299, 299), (512, 320)])
def test_features_are_the_cpus(narrow_graph: Graph, size: tuple[int, int]) -> None:
    """Within what two implementations in float32 differ by: no TF32."""
    weights = read_weights(narrow_graph.pb)
    on_cpu, on_gpu = (
        InceptionExtractor(weights, device, 64)(images(*size))
        for device in (torch.device("cpu"), CUDA)
    )
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=FEATURES)


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (512, 320)])
def test_the_resize_is_the_cpus(size: tuple[int, int]) -> None:
    pixels = torch.from_numpy(images(*size, count=2))
    on_cpu, on_gpu = resize_bilinear(pixels, 299), resize_bilinear(pixels.to(CUDA), 299).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=RESIZED)


def test_the_same_batch_has_the_same_bits_whatever_is_in_it(narrow_graph: Graph) -> None:
    extractor = InceptionExtractor(read_weights(narrow_graph.pb), CUDA, 64)
    pixels = images(64, 64)
    first, again = extractor(pixels), extractor(pixels)
    pixels[32:] = 0
    other = extractor(pixels)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[:32], c[:32])
