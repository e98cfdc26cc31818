"""The digits extractor and its references: accuracy, equality, shapes, errors and digests."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from evalsuite.errors import DataError
from evalsuite.features.base import FeatureBatch
from evalsuite.features.digits import DigitsExtractor

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "configs" / "extractors" / "digits-convnet.safetensors"
REFERENCES = {"digits-16-train": 1257, "digits-16-heldout": 540}


@pytest.fixture(scope="module")
def extractor() -> DigitsExtractor:
    """The committed extractor; one thread, as the references were made."""
    torch.set_num_threads(1)
    return DigitsExtractor(load_file(WEIGHTS), torch.device("cpu"))


def read(name: str) -> dict[str, NDArray[Any]]:
    """All arrays of a reference."""
    with np.load(ROOT / "reference_stats" / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def features_of(extractor: DigitsExtractor, images: NDArray[np.uint8]) -> FeatureBatch:
    """Features in aligned batches of 50 with zero padding."""
    padded = np.pad(images, ((0, -len(images) % 50), (0, 0), (0, 0), (0, 0)))
    parts = [extractor(padded[start : start + 50]) for start in range(0, len(padded), 50)]
    return FeatureBatch(*(np.concatenate(part)[: len(images)] for part in zip(*parts, strict=True)))


def test_held_out_digits_are_recognised(extractor: DigitsExtractor) -> None:
    """At least 98 % of the held-out split."""
    reference = read("digits-16-heldout")
    probabilities = features_of(extractor, reference["arr_0"]).probabilities_NK
    assert (probabilities.argmax(axis=1) == reference["arr_1"]).mean() >= 0.98


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_statistics_equal_recomputed_ones(extractor: DigitsExtractor, name: str) -> None:
    """The tolerance is float32 convolutions on another CPU: features differ by about 1e-6."""
    reference = read(name)
    features = features_of(extractor, reference["arr_0"])
    for suffix, part in (("", features.pool_ND), ("_s", features.spatial_NP)):
        wide = part.astype(np.float64)
        np.testing.assert_allclose(reference[f"mu{suffix}"], wide.mean(axis=0), atol=1e-5)
        cov = np.cov(wide, rowvar=False)
        np.testing.assert_allclose(reference[f"sigma{suffix}"], cov, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), REFERENCES.items())
def test_reference_layout(name: str, count: int) -> None:
    """ADM's keys, with labels; the held-out split has the same number of each class."""
    reference = read(name)
    layout = {key: (value.dtype, value.shape) for key, value in reference.items()}
    assert layout == {
        "arr_0": (np.uint8, (count, 16, 16, 3)),
        "arr_1": (np.int64, (count,)),
        "mu": (np.float64, (64,)),
        "sigma": (np.float64, (64, 64)),
        "mu_s": (np.float64, (112,)),
        "sigma_s": (np.float64, (112, 112)),
    }
    per_class = np.bincount(reference["arr_1"], minlength=10)
    if name == "digits-16-heldout":
        assert per_class.tolist() == [54] * 10
    else:
        assert per_class.min() >= 118


@pytest.mark.parametrize("name", REFERENCES)
def test_sidecar_matches_the_files(name: str) -> None:
    """Every digest in a sidecar is that of the committed bytes."""
    folder = ROOT / "reference_stats"
    sidecar = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    images = read(name)["arr_0"]
    assert sidecar["name"] == name
    assert sidecar["sha256"] == hashlib.sha256((folder / sidecar["file"]).read_bytes()).hexdigest()
    assert sidecar["extractor_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert sidecar["images"] == {
        "count": len(images),
        "size": [16, 16],
        "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
    }
    assert sidecar["statistics_count"] == len(images)
    assert "Inception" in sidecar["not_comparable_with"]


def test_the_splits_share_no_image() -> None:
    """No training image is in the held-out part."""
    train, held_out = ({image.tobytes() for image in read(name)["arr_0"]} for name in REFERENCES)
    assert not train & held_out


@pytest.mark.parametrize("fill", [0, 255, "random"])
def test_shapes_and_probabilities(extractor: DigitsExtractor, fill: int | str) -> None:
    """Features are finite and no probability is zero, on images that are no digits as well."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    if isinstance(fill, int):
        images[:] = fill
    features = extractor(images)
    assert features.pool_ND.shape == (50, 64)
    assert features.spatial_NP.shape == (50, 112)
    assert features.probabilities_NK.shape == (50, 10)
    for part in features:
        assert part.dtype == np.float32
        assert np.isfinite(part).all()
    assert features.probabilities_NK.min() > 0
    np.testing.assert_allclose(features.probabilities_NK.sum(axis=1), 1, rtol=1e-5)


def test_spatial_features_are_seven_channels_with_the_channel_fastest(
    extractor: DigitsExtractor,
) -> None:
    """The mean of a spatial channel over its 16 places is that channel's pooled feature."""
    features = extractor(read("digits-16-train")["arr_0"][:50])
    means = features.spatial_NP.reshape(50, 4, 4, 7).mean(axis=(1, 2))
    np.testing.assert_allclose(means, features.pool_ND[:, :7], rtol=1e-5, atol=1e-6)


def test_a_digit_has_the_same_features_in_every_slot_to_rounding(
    extractor: DigitsExtractor,
) -> None:
    """What else is in the batch does not matter."""
    images = read("digits-16-train")["arr_0"][:50]
    straight, turned = extractor(images), extractor(images[::-1])
    np.testing.assert_allclose(straight.pool_ND, turned.pool_ND[::-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(50, 32, 32, 3), (50, 16, 16, 1), (50, 16, 16)])
def test_other_image_sizes_are_refused(extractor: DigitsExtractor, shape: tuple[int, ...]) -> None:
    """One line that names the size that was given."""
    with pytest.raises(DataError, match="16 x 16 x 3") as caught:
        extractor(np.zeros(shape, np.uint8))
    assert " x ".join(map(str, shape[1:])) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "images",
    [np.zeros((49, 16, 16, 3), np.uint8), np.zeros((50, 16, 16, 3), np.float32)],
    ids=["count", "dtype"],
)
def test_other_batches_are_refused(extractor: DigitsExtractor, images: NDArray[np.generic]) -> None:
    """Another batch size or dtype would change bits."""
    with pytest.raises(ValueError, match="50 uint8 images"):
        extractor(images)


def test_foreign_weights_are_refused() -> None:
    """A missing key and another shape, each in one line."""
    weights = load_file(WEIGHTS)
    missing = {key: value for key, value in weights.items() if key != "conv1.bias"}
    reshaped = {**weights, "classifier.bias": torch.zeros(11)}
    for wrong in (missing, reshaped):
        with pytest.raises(DataError, match="digits extractor"):
            DigitsExtractor(wrong, torch.device("cpu"))
