"""Making a reference of any images: pixels, statistics and features in one pass, with a sidecar.

The images are never held together: pixels go through to the file, moments are summed by batch.
Legend: N images, H height, W width.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.reference_files import FeatureFileWriter, ReferenceNpzWriter
from evalsuite.artifacts.samples import SampleSet, open_samples, portion_of
from evalsuite.artifacts.storage import LocalStorage, file_sha256
from evalsuite.config import (
    ReferenceSpec,
    load_spec,
    names_of,
)
from evalsuite.errors import ConfigError, DataError, StorageError, UsageError
from evalsuite.features.aligned import AlignedExtractor
from evalsuite.features.base import FeatureBatch
from evalsuite.metrics.moments import MomentsAccumulator
from evalsuite.pipeline.decoding import decoded
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.pipeline.reference_request import BuildRequest, OutputPaths
from evalsuite.pipeline.reference_sidecar import (
    MadeFiles,
    bare_sidecar,
    sidecar_bytes,
    sidecar_of,
)
from evalsuite.pipeline.source import sums_checked
from evalsuite.pipeline.worker import load_extractor

Progress = Callable[[int, int], None]
"""Told the images done, and of how many."""


@dataclass(frozen=True)
class BuiltReference:
    """What was made."""

    spec: ReferenceSpec
    npz: Path
    sidecar: Path
    features: Path | None


def build_reference(request: BuildRequest, progress: Progress | None = None) -> BuiltReference:
    """Write NAME.npz and NAME.yaml, and NAME.features.safetensors if features are asked for.

    Equal images give equal bytes. The sidecar comes last: a reference without one is not finished.

    Raises:
        UsageError: parts without an extractor, a name that is taken, classes that are not known.
        DataError: images that cannot be read or do not fit the extractor, classes that are small.
        StorageError: the output cannot be written, or is too small.
    """
    check_request(request)
    samples = open_samples(request.source, resize=request.resize, convert_rgb=request.convert_rgb)
    chosen_N = _chosen(samples, request.per_class, request.seed)
    _check_images(request, samples, len(chosen_N))
    paths = OutputPaths(request)
    with paths.aside() as aside:
        made = _Making(request, samples, chosen_N, aside).run(progress)
        spec = sidecar_of(request, samples, chosen_N, made, paths)
        paths.move_into_place()
    LocalStorage(request.output).replace(paths.sidecar.name, sidecar_bytes(spec))
    return BuiltReference(
        load_spec(ReferenceSpec, str(paths.sidecar)),
        paths.npz,
        paths.sidecar,
        paths.features if spec.features else None,
    )


def check_request(request: BuildRequest) -> None:
    """What can be known before an image is opened."""
    if not request.parts & {"images", "moments"}:
        raise UsageError("a reference of features alone is none: add images or moments to --with")
    if request.extractor is None and request.parts != {"images"}:
        needing = ", ".join(sorted(request.parts - {"images"}))
        raise UsageError(f"--extractor is needed for {needing}")
    if request.name in names_of(ReferenceSpec):
        raise UsageError(f"--name {request.name}: a registered reference has that name")
    paths = OutputPaths(request)
    try:
        bare_sidecar(request, paths)
    except ValueError as error:
        raise ConfigError(f"--name {request.name!r}: letters, digits, '.', '_' and '-'") from error
    for path in (paths.npz, paths.sidecar, paths.features):
        if path.exists():
            raise UsageError(f"{path} exists: give another --name or --output, or remove it")
    LocalStorage(request.output).check_writable()


class _Making:
    """One pass over the chosen images."""

    def __init__(
        self, request: BuildRequest, samples: SampleSet, chosen_N: NDArray[np.int64], aside: Path
    ) -> None:
        self._request, self._samples, self._chosen_N, self._aside = (
            request,
            samples,
            chosen_N,
            aside,
        )
        self._pool, self._spatial = MomentsAccumulator(), MomentsAccumulator()
        self._has_spatial = False
        self._features: FeatureFileWriter | None = None
        self._features_path = aside / f"{request.name}.features.safetensors"

    def run(self, progress: Progress | None) -> MadeFiles:
        request, total = self._request, len(self._chosen_N)
        extractor = None
        if request.extractor is not None and request.parts != {"images"}:
            prepare_torch(request.device)
            extractor = AlignedExtractor(load_extractor(request.extractor, request.device))
        shape = (total, *self._samples.size) if "images" in request.parts else None
        digest, done = hashlib.sha256(), 0
        with LocalStorage(self._aside).create(f"{request.name}.npz") as target:
            writer = ReferenceNpzWriter(target, shape)
            for images in _images_of(self._samples, self._chosen_N, request.processes):
                digest.update(np.ascontiguousarray(images).data)
                writer.add_images(images)
                if extractor is not None:
                    self._take(extractor.push(done, images))
                done += len(images)
                if progress is not None:
                    progress(done, total)
            if extractor is not None:
                self._take(extractor.flush())
            writer.close(self._arrays())
        features_sha256 = file_sha256(self._features_path) if self._features else None
        return MadeFiles(target.sha256, digest.hexdigest(), features_sha256)

    def _take(self, batches: list[FeatureBatch]) -> None:
        for batch in batches:
            if "moments" in self._request.parts:
                self._pool.update(batch.pool_ND)
                if batch.spatial_NP is not None:
                    self._has_spatial = True
                    self._spatial.update(batch.spatial_NP)
            if "features" in self._request.parts:
                parts = {
                    "pool": batch.pool_ND,
                    "spatial": batch.spatial_NP,
                    "probabilities": batch.probabilities_NK,
                }
                present = {name: rows for name, rows in parts.items() if rows is not None}
                if self._features is None:
                    widths = {name: rows.shape[1] for name, rows in present.items()}
                    total = len(self._chosen_N)
                    self._features = FeatureFileWriter(self._features_path, widths, total)
                self._features.add(present)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        if self._samples.labels_N is not None:
            arrays["arr_1"] = self._samples.labels_N[self._chosen_N]
        if "moments" in self._request.parts:
            moments = self._pool.result()
            arrays |= {"mu": moments.mean_D, "sigma": moments.cov_DD}
            if self._has_spatial:
                moments = self._spatial.result()
                arrays |= {"mu_s": moments.mean_D, "sigma_s": moments.cov_DD}
        return arrays


def _chosen(samples: SampleSet, per_class: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of the images to take, ascending."""
    if per_class is None:
        return np.arange(samples.num_images)
    if samples.labels_N is None:
        raise UsageError(
            f"--per-class: the classes of {samples.where} are not known: give an NPZ with arr_1,"
            " or a folder of one folder for each class"
        )
    generator = np.random.default_rng(seed)
    picked = []
    for label in np.unique(samples.labels_N):
        of_class = np.flatnonzero(samples.labels_N == label)
        if len(of_class) < per_class:
            raise DataError(
                f"{samples.where}: class {label} has {len(of_class)} images, fewer than"
                f" --per-class {per_class}"
            )
        picked.append(generator.choice(of_class, per_class, replace=False))
    return np.sort(np.concatenate(picked)).astype(np.int64)


def _images_of(samples: SampleSet, chosen_N: NDArray[np.int64], processes: int) -> Iterator[Images]:
    """The chosen images in portions, in their order."""
    count = len(chosen_N)
    checking: AbstractContextManager[None] = contextlib.nullcontext()
    if samples.random_access and count < samples.num_images:
        checking = sums_checked(samples)
        read = _ChosenReader(samples.read, chosen_N).read
        samples = replace(samples, num_images=count, read=read, check_sums=None)
        chosen_N = np.arange(count)
    at, stop = 0, int(chosen_N[-1]) + 1
    with checking:
        for images in decoded(samples, 0, stop, portion_of(samples.size), processes):
            low, high = np.searchsorted(chosen_N, (at, at + len(images)))
            if high > low:
                yield images[chosen_N[low:high] - at]
            at += len(images)


@dataclass(frozen=True)
class _ChosenReader:
    """Reads some images as if there were no others between them; it can be pickled."""

    source: Callable[[int, int], Iterator[Images]]
    chosen_N: NDArray[np.int64]

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """Chosen images start..stop-1, one at a time."""
        for index in self.chosen_N[start:stop].tolist():
            yield from self.source(index, index + 1)


def _check_images(request: BuildRequest, samples: SampleSet, count: int) -> None:
    """Refuse before the pass what would fail in it."""
    spec = request.extractor
    if spec is not None and spec.input_size not in {None, samples.size}:
        raise DataError(
            f"{samples.where} gives images of {samples.size[0]}x{samples.size[1]}, but extractor"
            f" {spec.name} takes {spec.input_size} only"
        )
    if "moments" in request.parts and count < 2:
        raise DataError(f"{samples.where}: moments need at least 2 images, not {count}")
    _check_space(request, samples, count)


def _check_space(request: BuildRequest, samples: SampleSet, count: int) -> None:
    needed = {"images": samples.size[0] * samples.size[1] * 3}
    if (spec := request.extractor) is not None:
        widths = (spec.pool_dim, spec.spatial_dim, spec.num_classes)
        needed["features"] = 8 + 4 * sum(width or 0 for width in widths)
    sizes = {part: count * size for part, size in needed.items() if part in request.parts}
    free = LocalStorage(request.output).free_bytes()
    if free is not None and sum(sizes.values()) > free:
        listed = " and ".join(sizes)
        raise StorageError(
            f"--output {request.output} has {free:,} bytes free, but the {listed} need"
            f" {sum(sizes.values()):,}: choose another, or leave {listed} out of --with"
        )
