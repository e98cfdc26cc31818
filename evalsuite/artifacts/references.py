"""References: stored moments of real data in ADM's NPZ layout, and its images where needed.

Legend: D pooled width, P spatial width.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import UNREADABLE
from evalsuite.artifacts.samples import SampleSet, open_npz, open_samples, read_npz_array
from evalsuite.artifacts.storage import file_sha256
from evalsuite.config import ReferenceSpec, load_spec
from evalsuite.errors import CorruptionError, DataError, UsageError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StoredMoments:
    """Mean and covariance as they stand in a file, float64."""

    mean_D: Array
    cov_DD: Array
    count: int | None
    """Images behind them; None when the file does not say."""

    @property
    def sha256(self) -> str:
        """Of mean and covariance as little-endian float64."""
        digest = hashlib.sha256(np.ascontiguousarray(self.mean_D, "<f8").tobytes())
        digest.update(np.ascontiguousarray(self.cov_DD, "<f8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Reference:
    """Real data to compare with.

    Attributes:
        name: as it is shown.
        pool: moments of pooled features, if stored.
        spatial: moments of spatial features, if stored.
        images: the real images, if stored.
        spec: the sidecar, if there is one.
    """

    name: str
    pool: StoredMoments | None
    spatial: StoredMoments | None
    images: SampleSet | None
    spec: ReferenceSpec | None


def open_reference(name_or_path: str) -> Reference:
    """A registered reference by name; or a sidecar, an NPZ or a folder of images by path.

    Raises:
        UsageError: unknown name.
        DataError: the file cannot be used as a reference.
        CorruptionError: the file is not the one that its sidecar names.
    """
    path = Path(name_or_path)
    if path.suffix == ".npz" or path.is_dir():
        sidecar = path.with_suffix(".yaml")
        if path.suffix == ".npz" and sidecar.is_file():
            spec = load_spec(ReferenceSpec, str(sidecar))
            if spec.file != path.name:
                raise DataError(
                    f"{sidecar} describes {spec.file}, not {path.name}: rename one of them"
                )
            return _registered(spec)
        if path.is_dir():
            return Reference(path.name, None, None, open_samples(path), None)
        return _from_npz(path, path.stem, None)
    if path.exists() and path.suffix not in {".yaml", ".yml"}:
        raise UsageError(
            f"reference {name_or_path!r} must be a name, a .yaml sidecar, an .npz or a folder"
        )
    return _registered(load_spec(ReferenceSpec, name_or_path))


def _registered(spec: ReferenceSpec) -> Reference:
    path = spec.path.parent / spec.file
    if not path.is_file():
        raise DataError(f"reference {spec.name}: {path} does not exist")
    if file_sha256(path) != spec.sha256:
        raise CorruptionError(
            f"{path} is not the file that {spec.path.name} names (SHA-256 differs)"
        )
    return _from_npz(path, spec.name, spec)


def _from_npz(path: Path, name: str, spec: ReferenceSpec | None) -> Reference:
    if not path.is_file():
        raise DataError(f"reference {path} does not exist")
    count = spec.statistics_count if spec else None
    pool = _moments(path, "mu", "sigma", count)
    spatial = _moments(path, "mu_s", "sigma_s", count)
    has_images = read_names(path) & {"arr_0"}
    images = open_npz(path) if has_images else None
    if pool is None and images is None:
        raise DataError(f"reference {path} holds neither mu and sigma nor images (arr_0)")
    return Reference(name, pool, spatial, images, spec)


def read_names(path: Path) -> set[str]:
    """Names of the arrays in an NPZ."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return set(archive.files)
    except UNREADABLE as error:
        raise DataError(f"reference {path} is not a readable NPZ: {error}") from error


def _moments(path: Path, mean: str, cov: str, count: int | None) -> StoredMoments | None:
    mu, sigma = read_npz_array(path, mean), read_npz_array(path, cov)
    if mu is None and sigma is None:
        return None
    if mu is None or sigma is None:
        raise DataError(f"reference {path} has one of {mean} and {cov}, but needs both")
    if (
        mu.ndim != 1
        or sigma.shape != (len(mu), len(mu))
        or {mu.dtype.kind, sigma.dtype.kind} != {"f"}
    ):
        raise DataError(f"reference {path}: {mean} {mu.shape} and {cov} {sigma.shape} do not fit")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError(f"reference {path}: {mean} or {cov} holds NaN or infinite values")
    return StoredMoments(mu.astype(np.float64), sigma.astype(np.float64), count)
