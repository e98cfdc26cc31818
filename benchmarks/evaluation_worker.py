"""One contestant of the benchmark of the evaluator, in a process of its own: ours, or ADM's.

    python -m benchmarks.evaluation_worker features|adm-features|neighbours|adm-neighbours|
        adm-evaluation|scoring ...

Legend: N samples, M reference images.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Answer, serve
from benchmarks.evaluation_inputs import random_features
from evalsuite.features.tensorflow_graph.client import TensorFlowGraph


class Job(NamedTuple):
    """Work that is done on demand, and the processes whose resources count (this one if none)."""

    run: Callable[[], Answer]
    watch: Sequence[int] = ()


def features(arguments: argparse.Namespace, stack: ExitStack) -> Job:
    """Our network over a range of the images, in one thread on a CPU."""
    from evalsuite.artifacts.samples import open_samples
    from evalsuite.config import ExtractorSpec, load_spec
    from evalsuite.features.aligned import extract_all
    from evalsuite.pipeline.decoding import decoded
    from evalsuite.pipeline.embedding import collected, opened_extractor
    from evalsuite.pipeline.numerics import resolve_device

    spec = load_spec(ExtractorSpec, str(arguments.extractor))
    device = resolve_device(arguments.device)
    extractor = stack.enter_context(opened_extractor(spec, device))
    samples = open_samples(arguments.samples)
    stop = min(arguments.stop or samples.num_images, samples.num_images)

    def run() -> Answer:
        batches = decoded(samples, arguments.start, stop, extractor.batch_size, 1)
        table = collected(extract_all(extractor, batches), stop - arguments.start)
        _save(arguments.save, table.pool_ND, table.spatial_NP)
        return {}

    return Job(run)


def adm_features(arguments: argparse.Namespace, stack: ExitStack) -> Job:
    """ADM's graph in TensorFlow, on all threads."""
    from benchmarks.adm_route import embedded
    from benchmarks.evaluation_peer import image_batches

    graph = stack.enter_context(TensorFlowGraph(arguments.weights))

    def run() -> Answer:
        found = embedded(graph, image_batches(arguments.samples, arguments.stop or 1 << 40))
        _save(arguments.save, found.pool_ND, found.spatial_NP)
        return {}

    return Job(run, [graph.pid])


def neighbours(arguments: argparse.Namespace, stack: ExitStack) -> Job:  # noqa: ARG001
    """Our precision and recall (with density, coverage and standard errors), on all threads."""
    import torch

    from evalsuite.metrics.distances import Arithmetic
    from evalsuite.metrics.manifolds import ManifoldSettings, manifold_metrics, reference_radii

    samples_ND, reference_MD = np.load(arguments.samples), np.load(arguments.reference)
    settings = ManifoldSettings(
        arithmetic=Arithmetic(arguments.arithmetic), device=torch.device(arguments.device)
    )
    kept_M = reference_radii(reference_MD, settings) if arguments.kept else None

    def run() -> Answer:
        values = manifold_metrics(samples_ND, reference_MD, settings, None, kept_M).values
        return {"precision": values.precision, "recall": values.recall}

    return Job(run)


def adm_neighbours(arguments: argparse.Namespace, stack: ExitStack) -> Job:
    """ADM's precision and recall in TensorFlow, on all threads."""
    samples_ND, reference_MD = np.load(arguments.samples), np.load(arguments.reference)
    graph = stack.enter_context(TensorFlowGraph(arguments.weights))

    def run() -> Answer:
        found = graph.precision_recall(reference_MD, samples_ND)
        return {"precision": found.precision, "recall": found.recall}

    return Job(run, [graph.pid])


def adm_evaluation(arguments: argparse.Namespace, stack: ExitStack) -> Job:  # noqa: ARG001
    """ADM's whole evaluation, TensorFlow's start included."""
    from benchmarks.adm_route import evaluation

    def run() -> Answer:
        began = time.perf_counter()
        with TensorFlowGraph(arguments.weights) as graph:
            start_s = time.perf_counter() - began
            found = evaluation(graph, arguments.samples, arguments.reference)
        return {"seconds of starting": start_s, **found}

    return Job(run)


def scoring(arguments: argparse.Namespace, stack: ExitStack) -> Job:  # noqa: ARG001
    """Our metrics on random features of full width, as after a pass over that many images."""
    from evalsuite.config import ProtocolSpec, load_spec
    from evalsuite.features.inception.layers import NUM_CLASSES, POOL_WIDTH, SPATIAL_WIDTH
    from evalsuite.metrics.moments import moments_of
    from evalsuite.metrics.registry import compute_metrics
    from evalsuite.metrics.values import ReferenceData, SampleData
    from evalsuite.pipeline.scoring import all_threads

    count, reference_count = arguments.count, arguments.reference_count
    pool_ND = random_features(count, POOL_WIDTH, 1)
    spatial_NP = random_features(count, SPATIAL_WIDTH, 2)
    random = np.random.default_rng(3)
    probabilities_NK = random.random((count, NUM_CLASSES), dtype=np.float32)
    probabilities_NK /= probabilities_NK.sum(axis=1, keepdims=True)
    reference_MD = random_features(reference_count, POOL_WIDTH, 4)
    spatial = moments_of(random_features(reference_count, SPATIAL_WIDTH, 5))
    protocol = load_spec(ProtocolSpec, "adm")

    def run() -> Answer:
        seconds: Answer = {}
        samples = SampleData(pool_ND, spatial_NP, probabilities_NK)
        reference = ReferenceData(moments_of(reference_MD), spatial, reference_MD)
        with all_threads():
            for names in (("fid",), ("sfid",), ("inception_score",), ("precision", "recall")):
                began = time.perf_counter()
                compute_metrics(names, samples, reference, protocol, arguments.device)
                seconds[" and ".join(names)] = time.perf_counter() - began
        return {"seconds": seconds}

    return Job(run)


WORK: dict[str, Callable[[argparse.Namespace, ExitStack], Job]] = {
    "features": features,
    "adm-features": adm_features,
    "neighbours": neighbours,
    "adm-neighbours": adm_neighbours,
    "adm-evaluation": adm_evaluation,
    "scoring": scoring,
}


def _save(
    path: Path | None, pool_ND: NDArray[np.float32], spatial_NP: NDArray[np.float32] | None
) -> None:
    if path is not None and spatial_NP is not None:
        np.savez(path, pool=pool_ND, spatial=spatial_NP)


def main() -> None:
    """Load, then work whenever asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=list(WORK))
    for name in ("samples", "reference", "extractor", "weights", "save"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--count", type=int, default=0, help="of random features")
    parser.add_argument("--reference-count", type=int, default=0)
    parser.add_argument("--arithmetic", default="adm-float16")
    parser.add_argument("--kept", action="store_true", help="with the reference's radii kept")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        serve(*WORK[arguments.work](arguments, stack))


if __name__ == "__main__":
    main()
