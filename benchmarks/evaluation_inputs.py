"""What the benchmark of the evaluator works on: a synthetic network, images, features; from seeds.

Legend: N images, H height, W width, C channels, D feature dimensions.
"""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.contestants import ROOT
from benchmarks.npz_streaming import SparseFile
from evalsuite.artifacts.storage import file_sha256
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.errors import DataError

_GENERATOR = ROOT / "tests/golden/cases/evaluator/make_synthetic_inception.py"
_EXTRACTOR = "inception-2015-12-05"
_CELL = 16
_PATTERN_ROWS = 8
_PORTION = 64


def network_file(folder: Path, kind: str, divisor: int = 1) -> Path:
    """The synthetic Inception in a folder, made there when it is not.

    Args:
        folder: where it lies.
        kind: `.pb` (TensorFlow), `_tf.pth` (torch-fidelity) or `_pf.pth` (pytorch-fid).
        divisor: of the channels.
    """
    narrow = "" if divisor == 1 else f"_d{divisor}"
    path = folder / f"inception_synthetic{narrow}{kind}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = [str(_GENERATOR), "--out", str(folder), "--width-divisor", str(divisor)]
        subprocess.run([sys.executable, *words], check=True, stdout=sys.stderr)
    if not path.exists():
        raise DataError(f"{_GENERATOR} made no {path}")
    return path


def extractor_file(folder: Path, weights: Path, divisor: int = 1, batch_size: int = 64) -> Path:
    """The registered Inception as an extractor of its own, with other weights and batches."""
    spec = load_spec(ExtractorSpec, _EXTRACTOR)
    fields = yaml.safe_load(spec.path.read_text(encoding="utf-8"))
    fields |= {
        "name": f"benchmark-d{divisor}",
        "short": "benchmark-",
        "weights": {"file": str(weights.resolve()), "sha256": file_sha256(weights)},
        "batch_size": batch_size,
        "pool_dim": fields["pool_dim"] // divisor,
    }
    del fields["card"]
    path = folder / f"extractor-d{divisor}-{batch_size}.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def structured_images(count: int, size: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Images of coloured cells and noise, uint8 [H,W,3], one after the other."""
    random = np.random.default_rng(seed)
    cells = -(-size // _CELL)
    for _ in range(count):
        coarse = random.integers(0, 200, (cells, cells, 3), dtype=np.uint8)
        image = coarse.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[:size, :size]
        yield image + random.integers(0, 56, (size, size, 3), dtype=np.uint8)


def write_images(path: Path, count: int, size: int, seed: int) -> Path:
    """An NPZ of structured images, stored."""
    np.savez(path, np.stack(list(structured_images(count, size, seed))))
    return path


def write_sparse_images(path: Path, count: int, size: int, seed: int) -> Path:
    """An NPZ of black images with some rows of noise, whose black takes no space on the disk."""
    random = np.random.default_rng(seed)
    black = bytes((size - _PATTERN_ROWS) * size * 3)
    file = cast("IO[bytes]", SparseFile(path))
    with (
        file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(count):
            member.write(random.bytes(_PATTERN_ROWS * size * 3))
            member.write(black)
    return path


def write_features(path: Path, count: int, dim: int, seed: int, shift: float = 0.0) -> Path:
    """An NPY of features as a ReLU leaves them, float32 [N,D]."""
    np.save(path, random_features(count, dim, seed, shift))
    return path


def random_features(count: int, dim: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Features as a ReLU leaves them, with a spectrum that falls, float32 [N,D]."""
    random = np.random.default_rng(seed)
    scale_D = np.geomspace(1.0, 0.03, dim, dtype=np.float32)
    mix_DD = np.random.default_rng(0).standard_normal((dim, dim), dtype=np.float32)
    mix_DD = np.eye(dim, dtype=np.float32) + mix_DD * np.float32(0.5 / np.sqrt(dim))
    latent_ND = random.standard_normal((count, dim), dtype=np.float32) + np.float32(0.3 + shift)
    features_ND: NDArray[np.float32] = np.maximum(latent_ND, 0) @ (mix_DD * scale_D)
    return features_ND
