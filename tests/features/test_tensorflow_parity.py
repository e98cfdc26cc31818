"""The TensorFlow process gives what the original evaluator gave, case by case of the goldens.

Values were made by the original program with TensorFlow on a CPU; on the kind of machine that made
them they come out bit for bit, and tolerances are for other instruction sets.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorflow_kit import KIT, NARROWEST, images_of, program, read, running_graph

from evalsuite.features.base import FeatureBatch
from evalsuite.metrics.inception_score import inception_score

FEATURE_TOLERANCE = 2e-4
SUM_TOLERANCE = 2e-3
"""Of a row's sum over up to 2,048 features, whose errors have both signs."""
SLICE = 64
pytestmark = pytest.mark.tf


def cases(pattern: str, *, whole: bool = False) -> list[Any]:
    """Cases of the kit; those of a full-width graph, and whole ones, take minutes."""
    found = []
    for path in sorted(KIT.glob(pattern)):
        divisor = read(path)[0]["width_divisor"]
        marks = [pytest.mark.slow] if whole or divisor == 1 else []
        found.append(pytest.param(path, id=f"evaluator-{path.stem}", marks=marks))
    return found


def test_the_kit_is_there() -> None:
    """An empty family of goldens is a failure."""
    assert len(cases("features_d*.json")) >= 2
    assert len(cases("case_*.json")) >= 2


@pytest.mark.parametrize("path", cases("features_d*.json"))
def test_features_of_every_size(path: Path) -> None:
    meta, stored = read(path)
    graph = running_graph(meta["width_divisor"])
    assert meta["shapes"]
    for height, width in meta["shapes"]:
        recipe = {**meta, "size": max(height, width)}
        features = graph.features(images_of(recipe)[:, :height, :width])
        for part, name in zip(features, ("pool", "spatial", "softmax"), strict=True):
            expected = stored[f"{height}x{width}_{name}"]
            assert part.shape[1:] == expected.shape[1:]
            assert np.abs(part[: len(expected)] - expected).max() <= FEATURE_TOLERANCE


def check_rows(features: FeatureBatch, stored: dict[str, NDArray[Any]], which: str) -> None:
    """The first rows, and the sum of each."""
    first = stored[f"{which}_pool_first4"]
    assert np.abs(features.pool_ND[: len(first)] - first).max() <= FEATURE_TOLERANCE
    first = stored[f"{which}_spatial_first2"]
    assert np.abs(features.spatial_NP[: len(first)] - first).max() <= FEATURE_TOLERANCE
    for part, name in ((features.pool_ND, "pool"), (features.spatial_NP, "spatial")):
        sums = part.sum(axis=1, dtype=np.float64)
        expected = stored[f"{which}_{name}_row_sums"][: len(sums)]
        assert np.abs(sums - expected).max() <= SUM_TOLERANCE


@pytest.mark.parametrize("path", cases("case_*.json"))
def test_the_first_images_of_a_case(path: Path) -> None:
    meta, stored = read(path)
    graph = running_graph(meta["width_divisor"])
    for which in ("ref", "sample"):
        features = graph.features(images_of(meta[which], count=SLICE))
        check_rows(features, stored, which)


@pytest.mark.parametrize("path", cases("case_*.json", whole=True))
def test_a_whole_case(path: Path) -> None:
    """Inception Score, precision, recall and every radius, from the images."""
    meta, stored = read(path)
    graph = running_graph(meta["width_divisor"])
    found = {which: graph.features(images_of(meta[which])) for which in ("ref", "sample")}
    for which, features in found.items():
        check_rows(features, stored, which)
    probabilities_NK = found["sample"].probabilities_NK
    assert inception_score(probabilities_NK) == pytest.approx(
        meta["adm"]["inception_score"], rel=5e-6
    )
    manifolds = graph.precision_recall(found["ref"].pool_ND, found["sample"].pool_ND)
    assert abs(manifolds.precision - meta["adm"]["precision"]) <= 3 / meta["sample"]["n"]
    assert abs(manifolds.recall - meta["adm"]["recall"]) <= 3 / meta["ref"]["n"]
    for radii, name in (
        (manifolds.reference_radii_M, "adm_radii_sq_ref"),
        (manifolds.samples_radii_N, "adm_radii_sq_sample"),
    ):
        np.testing.assert_allclose(radii, stored[name], rtol=2**-9)


def manifold_cases() -> list[Any]:
    content = read_metric_math()
    return [
        pytest.param(case, id=f"evaluator-{name}")
        for name, case in content.items()
        if "precision" in case.get("adm", {})
    ]


def read_metric_math() -> dict[str, Any]:
    """The plain metric cases."""
    content: dict[str, Any] = json.loads((KIT / "metric_math.json").read_text())
    return content


@pytest.mark.parametrize("case", manifold_cases())
def test_precision_and_recall_of_matrices(case: dict[str, Any]) -> None:
    """One of them overflows float16, so that its tile is computed in float32."""
    reference_MD, samples_ND = (
        program("make_features").features(case["recipe"], which) for which in ("ref", "gen")
    )
    found = running_graph(NARROWEST).precision_recall(reference_MD, samples_ND)
    expected = case["adm"]
    assert abs(found.precision - expected["precision"]) <= 3 / len(samples_ND)
    assert abs(found.recall - expected["recall"]) <= 3 / len(reference_MD)
    for radii, name in (
        (found.reference_radii_M, "radii_sq_ref_first8"),
        (found.samples_radii_N, "radii_sq_gen_first8"),
    ):
        np.testing.assert_allclose(radii[:8], expected[name], rtol=2**-9)
