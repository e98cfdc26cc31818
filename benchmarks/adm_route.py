"""What ADM's evaluator computes outside TensorFlow, by its own route: `scipy.linalg.sqrtm`.

Source: guided-diffusion `evaluations/evaluator.py`, whose operations these are. Legend: N samples,
D feature dimensions, K classes.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from benchmarks.evaluation_peer import image_batches
from evalsuite.features.tensorflow_graph.client import TensorFlowGraph

_SPLIT = 5000
_EPSILON = 1e-6


class Statistics(NamedTuple):
    """Mean, as numpy sums float32, and covariance in float64."""

    mean_D: NDArray[Any]
    cov_DD: NDArray[np.float64]


def statistics_of(features_ND: NDArray[np.float32]) -> Statistics:
    """Moments as ADM takes them."""
    return Statistics(features_ND.mean(axis=0), np.cov(features_ND, rowvar=False))


def frechet_by_sqrtm(a: Statistics, b: Statistics) -> float:
    """The distance by the matrix square root of the product, with ADM's added diagonal if need be.

    An imaginary part is dropped, where ADM gives up if it is beyond 1e-3.
    """
    root_DD = _root(a.cov_DD @ b.cov_DD)
    if not np.isfinite(root_DD).all():
        more_DD = np.eye(len(a.cov_DD)) * _EPSILON
        root_DD = _root((a.cov_DD + more_DD) @ (b.cov_DD + more_DD))
    difference_D = a.mean_D - b.mean_D
    traces = np.trace(a.cov_DD) + np.trace(b.cov_DD) - 2 * np.trace(root_DD.real)
    return float(difference_D.dot(difference_D) + traces)


def _root(product_DD: NDArray[np.float64]) -> NDArray[Any]:
    root_DD: NDArray[Any] = scipy.linalg.sqrtm(product_DD)
    return root_DD


def inception_score(probabilities_NK: NDArray[np.float32]) -> float:
    """Mean over consecutive splits, in float32."""
    scores = []
    for start in range(0, len(probabilities_NK), _SPLIT):
        part_NK = probabilities_NK[start : start + _SPLIT]
        mean_1K = part_NK.mean(axis=0, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence_N = (part_NK * (np.log(part_NK) - np.log(mean_1K))).sum(axis=1)
        scores.append(np.exp(divergence_N.mean()))
    return float(np.mean(scores))


class Embedded(NamedTuple):
    """Pooled and spatial features, and class probabilities."""

    pool_ND: NDArray[np.float32]
    spatial_NP: NDArray[np.float32]
    probabilities_NK: NDArray[np.float32]


def embedded(graph: TensorFlowGraph, batches: Iterable[NDArray[np.uint8]]) -> Embedded:
    """Features of batches of 64 by ADM's graph."""
    parts = [graph.features(images) for images in batches]
    return Embedded(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def evaluation(graph: TensorFlowGraph, samples: Path, reference: Path) -> dict[str, float]:
    """ADM's five numbers, and the seconds of each phase as `seconds of ...`."""
    answer: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = run()
        answer[f"seconds of {name}"] = time.perf_counter() - began
        return result

    def embed(path: Path) -> Embedded:
        return embedded(graph, image_batches(path, 1 << 40))

    theirs = timed("reference features", lambda: embed(reference))
    ours = timed("sample features", lambda: embed(samples))
    moments = timed(
        "moments", lambda: [statistics_of(part) for found in (ours, theirs) for part in found[:2]]
    )
    answer["inception_score"] = timed("IS", lambda: inception_score(ours.probabilities_NK))
    answer["fid"] = timed("FID", lambda: frechet_by_sqrtm(moments[0], moments[2]))
    answer["sfid"] = timed("sFID", lambda: frechet_by_sqrtm(moments[1], moments[3]))
    shares = timed(
        "precision and recall", lambda: graph.precision_recall(theirs.pool_ND, ours.pool_ND)
    )
    answer |= {"precision": shares.precision, "recall": shares.recall}
    return answer
