"""References made ready for metrics: moments as stored, images embedded once on each machine.

Legend: M reference images.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.digests import cache_root, known_sha256
from evalsuite.artifacts.features import FeatureTable, decode_features, encode_features
from evalsuite.artifacts.references import Reference, StoredMoments, read_features
from evalsuite.artifacts.samples.walking import walk
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.config import canonical_json
from evalsuite.errors import CorruptionError, DataError, StorageError
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.metrics.neighbours import count_duplicates
from evalsuite.metrics.values import ReferenceData
from evalsuite.pipeline.embedding import Embedded, embed
from evalsuite.pipeline.measure import Backend, Measure, check_reference
from evalsuite.pipeline.numerics import numerics_id, numerics_of, prepare_torch
from evalsuite.pipeline.provenance import decoding_version, package_versions

_FEATURES = "features.bin"


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

    Features that were stored with the images serve where the same extractor made them. Embedded
    images and what follows from them are remembered by the content of the files, so the next
    evaluation against the same reference embeds nothing.

    Raises:
        DataError: a reference that does not fit, or images that cannot be used.
        CorruptionError: stored features or images are not the ones that were written.
    """
    reference = measure.reference
    if reference is None:
        return None
    check_reference(reference, measure.spec, measure.metrics)
    embedded, memo = None, None
    digests: dict[str, str] = {}
    if _must_embed(reference, measure.needs):
        embedded, memo = _stored(measure, reference) or _embedded(measure, reference, decoders)
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
    notes = (reference.coarse, _duplicates(features_MD)) if with_images else ()
    said = tuple(note for note in notes if note)
    return PreparedReference(ReferenceData(pool, spatial, features_MD, memo), digests, said)


def known_features(measure: Measure) -> FeatureTable | None:
    """Features of a reference's images where they are stored or remembered; nothing is embedded.

    Raises:
        DataError: a reference that does not fit the extractor.
        CorruptionError: stored features are not the ones that were written.
    """
    reference = measure.reference
    if reference is None:
        return None
    check_reference(reference, measure.spec, ())
    stored = _stored(measure, reference)
    if stored is not None:
        return stored[0].table
    folder = _memory_of(measure, reference)
    found = None if folder is None else _read(folder)
    return found.table if found else None


def _duplicates(features_MD: NDArray[np.float32] | None) -> str | None:
    """What to say when reference images repeat, whose balls then have radius 0."""
    repeated = 0 if features_MD is None else count_duplicates(features_MD)
    return f"{repeated} reference images have exactly the features of another" if repeated else None


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
    """Arrays of M rows in a folder of this machine's cache; one that cannot be written is no error.

    Each is kept behind a digest of its name and bytes: one that is damaged, or is not what its name
    says, is made again.
    """

    def __init__(self, folder: Path, num_rows: int) -> None:
        self._folder, self._num_rows = folder, num_rows

    def recall(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of this name: remembered, or made now."""
        path = self._folder / f"{name}.bin"
        content = _remembered(path)
        with contextlib.suppress(ValueError, EOFError):
            if content is not None:
                found: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
                if found.shape[:1] == (self._num_rows,):
                    return found
        array = make()
        _remember(path, _npy_bytes(array))
        return array


def _stored(measure: Measure, reference: Reference) -> tuple[Embedded, DiskMemo] | None:
    """Features that were built with the reference, where this extractor made them, by torch."""
    spec = reference.spec
    if spec is None or spec.features is None or measure.backend != "torch":
        return None
    if spec.extractor_id != measure.spec.extractor_id:
        return None
    table = read_features(reference)
    assert table is not None
    prepare_torch(measure.device)
    numerics = numerics_id(numerics_of(measure.device))
    folder = _folder_of({"features": spec.features.sha256, "numerics": numerics})
    # the same digest as if the images had been embedded now
    images_sha256 = (spec.build or {}).get("images_sha256", spec.features.sha256)
    return Embedded(table, str(images_sha256)), DiskMemo(folder, len(table.pool_ND))


def _embedded(
    measure: Measure, reference: Reference, decoders: int
) -> tuple[Embedded, DiskMemo | None]:
    if reference.images is None:
        raise DataError(
            f"reference {reference.name} holds no images for {measure.backend} to make features of:"
            " use --backend torch, or choose another --reference"
        )
    folder = _memory_of(measure, reference)
    if folder is None:
        return _embed(measure, reference, decoders), None
    found = _read(folder)
    if found is None:
        found = _embed(measure, reference, decoders)
        content = bytes.fromhex(found.images_sha256) + encode_features(_without_classes(found))
        _remember(folder / _FEATURES, content)
    return found, DiskMemo(folder, len(found.table.pool_ND))


def _memory_of(measure: Measure, reference: Reference) -> Path | None:
    """Folder in which features of a reference's images are remembered; None of images in memory."""
    images = reference.images
    if images is None or reference.path is None:
        return None
    prepare_torch(measure.device)
    return _folder_of(
        {
            "images": content_identity(reference.path),
            "resize": images.resize,
            "extractor": measure.spec.extractor_id,
            "backend": _backend_version(measure.backend),
            "numerics": numerics_id(numerics_of(measure.device)),
            **({"decoding": decoding_version()} if images.encoded else {}),
        }
    )


def _folder_of(key: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(canonical_json(dict(key))).hexdigest()[:32]
    return cache_root() / "references" / name


def _backend_version(backend: Backend) -> str:
    """The numerics tell torch's version, of TensorFlow nothing."""
    if backend == "torch":
        return backend
    return f"{backend} {package_versions().get('tensorflow', 'unknown')}"


def _embed(measure: Measure, reference: Reference, decoders: int) -> Embedded:
    images = reference.images
    assert images is not None
    return embed(images, images.num_images, measure.spec, measure.device, measure.backend, decoders)


def _without_classes(found: Embedded) -> FeatureTable:
    """No metric needs the reference's class probabilities."""
    return found.table._replace(probabilities_NK=None)


def content_identity(path: Path) -> str:
    """Digest of the files behind images: of the file, or of the names and files that are read."""
    if path.is_file():
        return known_sha256(path)
    found, digest = walk(path), hashlib.sha256()
    for name in (*found.pictures, *found.npz, *found.parquet):
        digest.update(canonical_json([name, known_sha256(path / name)]))
    return digest.hexdigest()


def _read(folder: Path) -> Embedded | None:
    """What was remembered; a file that is damaged counts as none."""
    content = _remembered(folder / _FEATURES)
    if content is None:
        return None
    try:
        return Embedded(decode_features(content[32:], str(folder)), content[:32].hex())
    except CorruptionError:
        return None


def _remember(path: Path, content: bytes) -> None:
    """Write content behind its digest, if that can be."""
    with contextlib.suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        LocalStorage(path.parent).replace(path.name, _digest_of(path, content) + content)


def _remembered(path: Path) -> bytes | None:
    """What was written under this name; None where it is not there or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    intact = _digest_of(path, memoryview(content)[32:]) == content[:32]
    return content[32:] if intact else None


def _digest_of(path: Path, content: bytes | memoryview) -> bytes:
    """Of the content and of the names of file and folder, which say what it is."""
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}\0".encode())
    digest.update(content)
    return digest.digest()


def _npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
