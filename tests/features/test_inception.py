"""Inception: what may not change a feature, and what is refused."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.evaluator_kit import Graph
from numpy.typing import NDArray
from torch.nn.functional import batch_norm, conv2d

from evalsuite.errors import DataError
from evalsuite.features.inception import network
from evalsuite.features.inception.extractor import InceptionExtractor
from evalsuite.features.inception.resize import resize_bilinear
from evalsuite.features.inception.weights import InceptionWeights, fold, read_weights

CPU = torch.device("cpu")
BATCH = 6
"""A whole pass of 4 on a CPU and a short one of 2."""


@pytest.fixture(scope="module")
def weights(narrow_graph: Graph) -> InceptionWeights:
    torch.set_num_threads(1)
    return read_weights(narrow_graph.pb)


@pytest.fixture(scope="module")
def extractor(weights: InceptionWeights) -> InceptionExtractor:
    return InceptionExtractor(weights, CPU, BATCH)


def noise(count: int, height: int = 40, width: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_shapes_and_dtypes(extractor: InceptionExtractor) -> None:
    features = extractor(noise(BATCH))
    shapes = [part.shape for part in features]
    assert shapes == [(BATCH, 256), (BATCH, 2023), (BATCH, 1008)]
    assert all(part.dtype == np.float32 and np.isfinite(part).all() for part in features)
    np.testing.assert_allclose(features.probabilities_NK.sum(axis=1), 1, rtol=1e-5)


def test_what_else_is_in_the_batch_changes_no_bit(extractor: InceptionExtractor) -> None:
    """One image, first among zeros (the padding of a short batch), then among others."""
    for slot in (0, 3, 5):
        alone, crowd = np.zeros((BATCH, 40, 40, 3), np.uint8), noise(BATCH, seed=1)
        alone[slot] = crowd[slot]
        for first, second in zip(extractor(alone), extractor(crowd), strict=True):
            assert np.array_equal(first[slot], second[slot])


def test_an_image_has_the_same_features_in_every_slot_to_rounding(
    extractor: InceptionExtractor,
) -> None:
    images = noise(BATCH, seed=2)
    for straight, turned in zip(extractor(images), extractor(images[::-1]), strict=True):
        np.testing.assert_allclose(straight, turned[::-1], rtol=0, atol=1e-4)


def test_another_process_gives_the_same_bits(
    extractor: InceptionExtractor, narrow_graph: Graph, tmp_path: Path
) -> None:
    """Whichever worker computes a batch, its features are the same."""
    images = noise(BATCH, seed=3)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import hashlib, sys, numpy as np, torch\n"
        "from pathlib import Path\n"
        "from evalsuite.features.inception.extractor import InceptionExtractor\n"
        "from evalsuite.features.inception.weights import read_weights\n"
        "torch.set_num_threads(1)\n"
        f"e = InceptionExtractor(read_weights(Path(sys.argv[1])), torch.device('cpu'), {BATCH})\n"
        "features = e(np.load(sys.argv[2]))\n"
        "print(hashlib.sha256(b''.join(part.tobytes() for part in features)).hexdigest())"
    )
    arguments = [sys.executable, "-c", code, str(narrow_graph.pb), str(tmp_path / "images.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ)
    here = hashlib.sha256(b"".join(part.tobytes() for part in extractor(images))).hexdigest()
    assert done.stdout.strip() == here


def test_folding_is_convolution_and_batch_norm(weights: InceptionWeights) -> None:
    """In float64, with a gamma that is not 1."""
    layer = weights.layers["Mixed_5b.branch5x5_2"]
    layer = layer._replace(gamma_O=np.linspace(0.5, 2, len(layer.gamma_O), dtype=np.float32))
    kernel, gamma, beta, mean, variance = (torch.from_numpy(part.copy()).double() for part in layer)
    x = torch.randn(2, kernel.shape[1], 9, 9, generator=torch.Generator().manual_seed(0)).double()
    expected = batch_norm(conv2d(x, kernel), mean, variance, gamma, beta, eps=0.001)
    folded, bias = (torch.from_numpy(part).double() for part in fold(layer))
    torch.testing.assert_close(conv2d(x, folded, bias), expected, rtol=0, atol=1e-5)


def test_packed_weights_change_speed_only(
    weights: InceptionWeights, extractor: InceptionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU runs, on the CPU: plain convolutions."""
    monkeypatch.setattr(network, "_can_pack", lambda device, dtype: False)
    plain = InceptionExtractor(weights, CPU, BATCH)
    images = noise(BATCH, seed=4)
    for first, second in zip(extractor(images), plain(images), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-4)


def test_a_training_loops_settings_change_nothing(
    weights: InceptionWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside autocast and with gradients, on the path that autocast would reach."""
    monkeypatch.setattr(network, "_can_pack", lambda device, dtype: False)
    plain = InceptionExtractor(weights, CPU, BATCH)
    images = noise(BATCH, seed=6)
    alone = plain(images)
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        within = plain(images)
    for first, second in zip(alone, within, strict=True):
        assert np.array_equal(first, second)


def test_bfloat16_is_near_but_not_equal(
    weights: InceptionWeights, extractor: InceptionExtractor
) -> None:
    """8 significant bits through 94 layers: some percent of the spread of a feature."""
    images = noise(BATCH, seed=5)
    exact = extractor(images).pool_ND
    rough = InceptionExtractor(weights, CPU, BATCH, torch.bfloat16)(images).pool_ND
    error = np.sqrt(np.mean((rough - exact) ** 2)) / exact.std()
    assert 1e-4 < error < 0.2


def test_a_pixel_beyond_the_last_is_the_last() -> None:
    """Upsampling by 2: even places are pixels, odd ones means, and the last repeats."""
    row = torch.tensor([10, 20, 40], dtype=torch.uint8)
    images = row.expand(3, 3)[None, :, :, None]
    expected = torch.tensor([10.0, 15, 20, 30, 40, 40])
    assert torch.equal(resize_bilinear(images, 6)[0, :, :, 0], expected.expand(6, 6))


def test_shrinking_takes_neighbours_without_antialias() -> None:
    """To a third: each place of the result is exactly one pixel of every third row."""
    images = torch.from_numpy(noise(2, 897, 897))
    assert torch.equal(resize_bilinear(images, 299), images[:, ::3, ::3].float())


@pytest.mark.parametrize("shape", [(BATCH, 40, 40, 1), (BATCH, 3, 40, 40), (BATCH, 40, 40)])
def test_what_is_not_rgb_is_refused(extractor: InceptionExtractor, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="RGB") as caught:
        extractor(np.zeros(shape, np.uint8))
    assert " x ".join(map(str, shape[1:])) in str(caught.value)


@pytest.mark.parametrize(
    "images",
    [np.zeros((BATCH - 1, 8, 8, 3), np.uint8), np.zeros((BATCH, 8, 8, 3), np.float32)],
    ids=["count", "dtype"],
)
def test_other_batches_are_refused(
    extractor: InceptionExtractor, images: NDArray[np.generic]
) -> None:
    with pytest.raises(ValueError, match=f"{BATCH} uint8 images"):
        extractor(images)
