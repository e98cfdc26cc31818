"""From anything that holds images to features: one pass, one table, memory for that table alone.

Legend: N images.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import Images
from evalsuite.artifacts.samples import SampleSet
from evalsuite.config import ExtractorSpec
from evalsuite.errors import DataError
from evalsuite.features.aligned import extract_all
from evalsuite.features.base import Extractor, FeatureBatch
from evalsuite.features.tensorflow_graph.client import TensorFlowExtractor, TensorFlowGraph
from evalsuite.pipeline.decoding import decoded, prefetched
from evalsuite.pipeline.measure import Backend
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.pipeline.worker import check_extractor_weights, load_extractor


class Embedded(NamedTuple):
    """Features of images, and the SHA-256 of their pixels in order."""

    table: FeatureTable
    images_sha256: str


@contextlib.contextmanager
def opened_extractor(
    spec: ExtractorSpec, device: torch.device, backend: Backend = "torch"
) -> Iterator[Extractor]:
    """The extractor by a backend; TensorFlow's lives in a process of its own meanwhile.

    Raises:
        DataError: weights that are missing or other ones, or no TensorFlow graph.
        EnvironmentProblem: TensorFlow is not installed.
    """
    if backend == "torch":
        prepare_torch(device)
        yield load_extractor(spec, device)
        return
    if spec.num_classes is None or spec.spatial_dim is None or spec.precision != "float32":
        raise DataError(f"extractor {spec.name} has no TensorFlow graph: use --backend torch")
    graph = check_extractor_weights(spec)
    with TensorFlowGraph(graph, use_gpu=device.type == "cuda") as process:
        yield TensorFlowExtractor(process)


def check_size(samples: SampleSet, spec: ExtractorSpec) -> None:
    """Raise DataError when the extractor does not take images of this size."""
    if spec.input_size not in {None, samples.size}:
        height, width = samples.size
        raise DataError(
            f"{samples.where} holds images of {height}x{width}, but extractor {spec.name} takes"
            f" {spec.input_size[0]}x{spec.input_size[1]} only"
        )


def embed(
    samples: SampleSet,
    num_samples: int,
    spec: ExtractorSpec,
    device: torch.device,
    backend: Backend = "torch",
    decoders: int = 1,
) -> Embedded:
    """Features of the first `num_samples` images, and the SHA-256 of their pixels.

    Args:
        samples: images in order.
        num_samples: how many of them.
        spec: the extractor.
        device: where it computes.
        backend: with what.
        decoders: processes that decode ahead; the numbers do not depend on it.

    Raises:
        DataError: images or weights that cannot be used.
    """
    check_size(samples, spec)
    digest = hashlib.sha256()

    def hashed(portions: Generator[Images]) -> Generator[Images]:
        with contextlib.closing(portions):
            for images in portions:
                digest.update(np.ascontiguousarray(images).data)
                yield images

    with (
        opened_extractor(spec, device, backend) as extractor,
        contextlib.closing(
            # A thread hashes ahead, or a GPU would wait for it.
            prefetched(hashed(decoded(samples, 0, num_samples, extractor.batch_size, decoders)), 1)
        ) as portions,
    ):
        table = collected(extract_all(extractor, portions), num_samples)
    check_finite(table, samples)
    return Embedded(table, digest.hexdigest())


def embed_images(images_NHWC: Images, spec: ExtractorSpec, device: torch.device) -> FeatureTable:
    """Features of images in memory.

    Raises:
        DataError: images or weights that cannot be used.
    """
    held = SampleSet(
        "the chosen samples",
        len(images_NHWC),
        (images_NHWC.shape[1], images_NHWC.shape[2]),
        None,
        None,
        lambda start, stop: iter([images_NHWC[start:stop]]),
        encoded=False,
    )
    return embed(held, len(images_NHWC), spec, device).table


def check_finite(table: FeatureTable, samples: SampleSet) -> None:
    """Name the first image whose features are NaN or infinite."""
    parts = (table.pool_ND, table.spatial_NP, table.probabilities_NK)
    bad_N = np.zeros(len(table.pool_ND), dtype=bool)
    for part in parts:
        if part is not None:
            bad_N |= ~np.isfinite(part.sum(axis=1, dtype=np.float64))
    if not bad_N.any():
        return
    first = int(bad_N.argmax())
    name = f" ({samples.names[first]})" if samples.names else ""
    raise DataError(
        f"{samples.where}: image {first}{name} has features that are NaN or infinite, as"
        f" {int(bad_N.sum())} of {len(bad_N)} have: the extractor's weights are broken"
    )


def collected(batches: Iterable[FeatureBatch], num_samples: int) -> FeatureTable:
    """One table of `num_samples` rows, filled as batches come; never two copies of it.

    Raises:
        DataError: fewer rows than that.
    """
    parts: list[NDArray[np.float32] | None] = []
    at = 0
    for batch in batches:
        if not parts:
            parts = [
                None if rows is None else np.empty((num_samples, rows.shape[1]), rows.dtype)
                for rows in batch
            ]
        count = len(batch.pool_ND)
        for table, rows in zip(parts, batch, strict=True):
            if table is not None and rows is not None:
                table[at : at + count] = rows
        at += count
    if at != num_samples or parts[0] is None:
        raise DataError(f"features of {num_samples} images were expected, {at} came")
    return FeatureTable(0, parts[0], parts[1], parts[2])
