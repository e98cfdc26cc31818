"""The sidecar of a reference that was built: everything that decided its file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from evalsuite import __version__
from evalsuite.artifacts.digests import known_sha256
from evalsuite.artifacts.samples import SampleSet
from evalsuite.artifacts.samples.walking import walk
from evalsuite.config import ReferenceFeatures, ReferenceImages, ReferenceSpec
from evalsuite.pipeline.numerics import numerics_id, numerics_of
from evalsuite.pipeline.provenance import package_versions
from evalsuite.pipeline.reference_request import BuildRequest, OutputPaths

_PACKAGES = ("evalsuite", "numpy", "pillow", "torch")


@dataclass(frozen=True)
class MadeFiles:
    """Digests of what a pass wrote and saw."""

    npz_sha256: str
    images_sha256: str
    features_sha256: str | None


def sidecar_of(
    request: BuildRequest,
    samples: SampleSet,
    chosen_N: NDArray[np.int64],
    made: MadeFiles,
    paths: OutputPaths,
) -> ReferenceSpec:
    """The sidecar, with everything that decided the file."""
    count, stores_images = len(chosen_N), "images" in request.parts
    labels = None if samples.labels_N is None else samples.labels_N[chosen_N]
    images = ReferenceImages(count=count, size=samples.size, images_sha256=made.images_sha256)
    build: dict[str, Any] = {
        **_source_facts(request.source),
        "images_in_source": samples.num_images,
        "images_used": count,
        "images_sha256": made.images_sha256,
        "codec": samples.codec or "unknown",
        "seed": request.seed if request.per_class is not None else "none",
        "packages": {k: v for k, v in package_versions().items() if k in _PACKAGES},
    }
    if labels is not None:
        counts = np.unique(labels, return_counts=True)[1]
        balance = {"number": len(counts), "fewest": int(counts.min()), "most": int(counts.max())}
        build["classes"] = balance
    if request.extractor is not None:
        build["numerics_id"] = numerics_id(numerics_of(request.device))
    update: dict[str, Any] = {
        "sha256": made.npz_sha256,
        "images": images if stores_images else None,
        "statistics_count": count if "moments" in request.parts else None,
        "build": build,
        "description": f"{count:,} images of {request.source.name}",
        "size": samples.size,
    }
    if made.features_sha256 is not None:
        features = ReferenceFeatures(file=paths.features.name, sha256=made.features_sha256)
        update["features"] = features
    return bare_sidecar(request, paths).model_copy(update=update)


def bare_sidecar(request: BuildRequest, paths: OutputPaths) -> ReferenceSpec:
    """What is known before the images are."""
    extractor = request.extractor if request.parts != {"images"} else None
    return ReferenceSpec(
        name=request.name,
        description=request.name,
        file=paths.npz.name,
        sha256="0" * 64,
        extractor=extractor.name if extractor else None,
        extractor_id=extractor.extractor_id if extractor else None,
        extractor_sha256=extractor.weights.sha256 if extractor else None,
        source=f"{'folder' if request.source.is_dir() else 'file'} {request.source.name}",
        preprocessing=_preprocessing(request),
        split=_split(request),
        program=f"evalsuite {__version__}, references build",
        not_comparable_with="numbers against any other reference, published ones included",
        path=paths.sidecar.resolve(),
    )


def _preprocessing(request: BuildRequest) -> str:
    rule = request.resize or "none: the pixels of the source as they are"
    return f"{rule}, pictures that are not RGB converted" if request.convert_rgb else rule


def _split(request: BuildRequest) -> str:
    if request.per_class is None:
        return "all images of the source"
    return (
        f"{request.per_class} images of each class, chosen by numpy default_rng({request.seed}),"
        " in the order of the source"
    )


def _source_facts(source: Path) -> dict[str, Any]:
    """Names the source by its bytes; a folder by the names and sizes of the files that are read."""
    if source.is_file():
        return {"source_sha256": known_sha256(source)}
    found, listing = walk(source), hashlib.sha256()
    names = (*found.pictures, *found.npz, *found.parquet)
    for name in names:
        listing.update(f"{name}\t{(source / name).stat().st_size}\n".encode())
    return {"source_files": len(names), "source_listing_sha256": listing.hexdigest()}


def sidecar_bytes(spec: ReferenceSpec) -> bytes:
    """The sidecar as YAML."""
    content = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100).encode()
