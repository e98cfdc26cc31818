"""Write the digits references: images, labels and feature statistics in ADM's NPZ layout.

A few seconds on one core. Each NPZ has a YAML sidecar that says where it came from.

    python -m jobs.digits.build_reference --out-dir reference_stats
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.features.base import FeatureBatch
from evalsuite.features.digits import DigitsExtractor
from jobs.digits.data import HELD_OUT_PER_CLASS, SPLIT_SEED, Digits, split

WEIGHTS = Path("configs/extractors/digits-convnet.safetensors")
SOURCE = (
    "scikit-learn load_digits, which is the test set of UCI 'Optical Recognition of Handwritten "
    "Digits', E. Alpaydin and C. Kaynak, 1998, https://doi.org/10.24432/C50P49; CC BY 4.0"
)
PREPROCESSING = (
    "values 0..16 to uint8 by round(v * 255 / 16); Pillow bicubic from 8 x 8 to 16 x 16; "
    "three equal channels"
)
NOT_COMPARABLE = (
    "any FID, sFID, IS, precision or recall from Inception features, ImageNet's above all: "
    "these are distances between features of a small digits classifier"
)


def load_extractor(path: Path) -> DigitsExtractor:
    """The digits extractor on the CPU."""
    return DigitsExtractor(load_file(path), torch.device("cpu"))


def features_of(extractor: DigitsExtractor, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
    """Features of all images: image i in slot i % 50 of a batch of 50, the last one zero-padded."""
    size = extractor.batch_size
    count = len(images_NHWC)
    padding = ((0, -count % size), (0, 0), (0, 0), (0, 0))
    padded = np.pad(images_NHWC, padding)
    parts = [extractor(padded[start : start + size]) for start in range(0, count, size)]
    pool, spatial, probabilities = (
        np.concatenate(part)[:count] for part in zip(*parts, strict=True)
    )
    return FeatureBatch(pool, spatial, probabilities)


def moments(features_ND: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D] and covariance [D,D] (divisor N - 1), float64."""
    features = features_ND.astype(np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_reference(name: str, part: str, digits: Digits, weights: Path, out_dir: Path) -> None:
    """Write `name`.npz and `name`.yaml."""
    pool_ND, spatial_NP, _ = features_of(load_extractor(weights), digits.images_NHWC)
    assert spatial_NP is not None
    mu, cov = moments(pool_ND)
    mu_s, cov_s = moments(spatial_NP)
    path = out_dir / f"{name}.npz"
    np.savez_compressed(
        path,
        arr_0=digits.images_NHWC,
        arr_1=digits.labels_N,
        mu=mu,
        sigma=cov,
        mu_s=mu_s,
        sigma_s=cov_s,
    )
    count = len(digits.images_NHWC)
    sidecar = {
        "name": name,
        "description": f"{part} split of handwritten digits: images, labels and statistics",
        "file": path.name,
        "sha256": sha256_of(path),
        "images": {
            "count": count,
            "size": list(digits.images_NHWC.shape[1:3]),
            "images_sha256": hashlib.sha256(digits.images_NHWC.tobytes()).hexdigest(),
        },
        "statistics_count": count,
        "extractor": "digits-convnet",
        "extractor_id": load_spec(ExtractorSpec, "digits-convnet").extractor_id,
        "extractor_sha256": sha256_of(weights),
        "source": SOURCE,
        "preprocessing": PREPROCESSING,
        "split": (
            f"random within classes, numpy default_rng({SPLIT_SEED}): {HELD_OUT_PER_CLASS} of each "
            f"class are held out, the rest is the training split; this is the {part} split"
        ),
        "program": "jobs/digits/build_reference.py",
        "not_comparable_with": NOT_COMPARABLE,
    }
    text = yaml.safe_dump(sidecar, sort_keys=False, width=100)
    (out_dir / f"{name}.yaml").write_text(text, encoding="utf-8")
    print(f"{name}: {count} images, {path.stat().st_size:,} bytes, {sidecar['sha256']}")


def main() -> None:
    """Read the command line and write both references."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out-dir", type=Path, default=Path("reference_stats"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="weights of the extractor")
    args = parser.parse_args()
    torch.set_num_threads(1)
    training, held_out = split()
    write_reference("digits-16-train", "training", training, args.weights, args.out_dir)
    write_reference("digits-16-heldout", "held-out", held_out, args.weights, args.out_dir)


if __name__ == "__main__":
    main()
