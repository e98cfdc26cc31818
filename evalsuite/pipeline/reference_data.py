"""References made ready for metrics: moments as stored, images embedded once on each machine.

Legend: M reference images.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.digests import cache_root, known_sha256
from evalsuite.artifacts.features import FeatureTable, decode_features, encode_features
from evalsuite.artifacts.references import Reference, StoredMoments
from evalsuite.artifacts.storage import Storage
from evalsuite.config import canonical_json
from evalsuite.errors import CorruptionError, StorageError
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.metrics.values import ReferenceData
from evalsuite.pipeline.embedding import Embedded, embed
from evalsuite.pipeline.measure import Measure, check_reference
from evalsuite.pipeline.numerics import numerics_id, numerics_of, prepare_torch


@dataclass(frozen=True, eq=False)
class PreparedReference:
    """A reference made ready for the metrics that were asked.

    Attributes:
        data: what metrics take.
        digests: SHA-256 of what each need was made from: `reference_pool`, `reference_features`.
        notes: sentences for metrics that use its images.
    """

    data: ReferenceData
    digests: Mapping[str, str]
    notes: tuple[str, ...] = ()


def prepare_reference(measure: Measure, decoders: int = 1) -> PreparedReference | None:
    """Load moments, and embed the reference's images only where a metric needs them.

    Embedded images and what follows from them are remembered by the content of the files, so the
    next evaluation against the same reference embeds nothing.

    Raises:
        DataError: a reference that does not fit, or images that cannot be used.
    """
    reference = measure.reference
    if reference is None:
        return None
    check_reference(reference, measure.spec, measure.metrics)
    embedded, memo = None, None
    digests: dict[str, str] = {}
    if _must_embed(reference, measure.needs) and reference.images is not None:
        embedded, memo = _embedded(measure, reference, decoders)
        names = ("reference_pool", "reference_spatial", "reference_features")
        digests = dict.fromkeys(names, embedded.images_sha256)
    pool = _moments(reference.pool, embedded.table.pool_ND if embedded else None)
    spatial = _moments(reference.spatial, embedded.table.spatial_NP if embedded else None)
    for need, stored in (
        ("reference_pool", reference.pool),
        ("reference_spatial", reference.spatial),
    ):
        if stored is not None:
            digests[need] = stored.sha256
    with_images = embedded is not None and "reference_features" in measure.needs
    features_MD = embedded.table.pool_ND if embedded and with_images else None
    notes = (reference.coarse,) if reference.coarse and with_images else ()
    return PreparedReference(ReferenceData(pool, spatial, features_MD, memo), digests, notes)


def _must_embed(reference: Reference, needs: frozenset[str]) -> bool:
    return (
        "reference_features" in needs
        or ("reference_pool" in needs and reference.pool is None)
        or ("reference_spatial" in needs and reference.spatial is None)
    )


def _moments(stored: StoredMoments | None, features: NDArray[np.float32] | None) -> Moments | None:
    if stored is not None:
        return Moments(stored.count or len(stored.mean_D) + 1, stored.mean_D, stored.cov_DD)
    return moments_of(features) if features is not None else None


class DiskMemo:
    """Arrays in a folder of this machine's cache; one that cannot be written is no error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of this name: remembered, or made now."""
        path = self._folder / f"{name}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):
            found: NDArray[Any] = np.load(path, allow_pickle=False)
            return found
        array = make()
        _replace(path, _npy_bytes(array))
        return array


def _embedded(
    measure: Measure, reference: Reference, decoders: int
) -> tuple[Embedded, DiskMemo | None]:
    images = reference.images
    assert images is not None
    identity = content_identity(reference.path) if reference.path else None
    if identity is None:
        return _embed(measure, reference, decoders), None
    prepare_torch(measure.device)
    key = {
        "images": identity,
        "resize": images.resize,
        "extractor": measure.spec.extractor_id,
        "backend": measure.backend,
        "numerics": numerics_id(numerics_of(measure.device)),
    }
    name = hashlib.sha256(canonical_json(key)).hexdigest()[:32]
    folder = cache_root() / "references" / name
    found = _read(folder)
    if found is None:
        found = _embed(measure, reference, decoders)
        content = bytes.fromhex(found.images_sha256) + encode_features(_without_classes(found))
        _replace(folder / "features.bin", hashlib.sha256(content).digest() + content)
    return found, DiskMemo(folder)


def _embed(measure: Measure, reference: Reference, decoders: int) -> Embedded:
    images = reference.images
    assert images is not None
    return embed(images, images.num_images, measure.spec, measure.device, measure.backend, decoders)


def _without_classes(found: Embedded) -> FeatureTable:
    """No metric needs the reference's class probabilities."""
    return found.table._replace(probabilities_NK=None)


def content_identity(path: Path) -> str | None:
    """Digest of the files behind images: of the file, or of a folder's names and files."""
    if path.is_file():
        return known_sha256(path)
    digest = hashlib.sha256()
    for folder, names, files in os.walk(path):
        names.sort()
        for file in sorted(files):
            full = Path(folder) / file
            relative = full.relative_to(path).as_posix()
            digest.update(canonical_json([relative, known_sha256(full)]))
    return digest.hexdigest()


def _read(folder: Path) -> Embedded | None:
    """What was remembered; a file that is damaged counts as none."""
    path = folder / "features.bin"
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    try:
        return Embedded(decode_features(content[64:], str(path)), content[32:64].hex())
    except CorruptionError:
        return None


def _replace(path: Path, content: bytes) -> None:
    with contextlib.suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        Storage(path.parent).replace(path.name, content)


def _npy_bytes(array: NDArray[Any]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
