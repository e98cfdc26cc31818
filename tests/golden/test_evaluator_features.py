"""The evaluator's goldens: features that ADM's TensorFlow graph gave with synthetic weights.

Tolerance of the fact sheet: float32 convolutions in another order differ by up to 1e-4 after 94
layers; a wrong epsilon, pool or channel order moves features by more than 1e-2. The resize has no
tolerance: its bits are TensorFlow's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.evaluator_kit import Graph, equal_weights, images_of

from evalsuite.features.inception.extractor import InceptionExtractor
from evalsuite.features.inception.layers import IMAGE_SIZE
from evalsuite.features.inception.resize import normalise, resize_bilinear
from evalsuite.features.inception.weights import read_weights

FEATURES = 2e-4
ROWS = (0, 1, 2, 149, 297, 298)
"""Rows of image 0 that the goldens hold of the resized and of the normalised input."""


def test_the_folder_of_the_evaluator_has_cases(
    goldens: Path, are_own_cases: bool, cases_of: Callable[[str], list[Any]]
) -> None:
    """A missing or empty family is a failure, not a silence."""
    assert (goldens / "evaluator").is_dir(), f"{goldens}/evaluator does not exist"
    kinds = {case.kind for case in cases_of("evaluator")}
    assert kinds, f"{goldens}/evaluator holds no case"
    assert kinds <= {"features", "images", "math"}, "a kind without a test"
    assert not are_own_cases or kinds == {"features", "images", "math"}


def test_features_equal_the_graphs(
    evaluator_features_case: Any, goldens: Path, synthetic_inception: Callable[[int], Graph]
) -> None:
    """Pool, spatial in (h, w, c) order and probabilities without bias, at every size."""
    meta, arrays = evaluator_features_case.meta, evaluator_features_case.arrays()
    weights = read_weights(synthetic_inception(meta["width_divisor"]).pb)
    extractor = InceptionExtractor(weights, torch.device("cpu"), meta["n"])
    assert meta["shapes"]
    for height, width in meta["shapes"]:
        images = images_of(goldens / "evaluator", meta, height, width)
        for name, part in zip(("pool", "spatial", "softmax"), extractor(images), strict=True):
            expected = arrays[f"{height}x{width}_{name}"]
            assert part.dtype == expected.dtype
            np.testing.assert_allclose(
                part, expected, rtol=0, atol=FEATURES, err_msg=f"{name} at {height}x{width}"
            )


def test_the_resize_has_the_graphs_bits(evaluator_features_case: Any, goldens: Path) -> None:
    """Square and oblong, smaller and larger than 299, and 299 itself."""
    meta, arrays = evaluator_features_case.meta, evaluator_features_case.arrays()
    assert meta["shapes"]
    for height, width in meta["shapes"]:
        images = images_of(goldens / "evaluator", meta, height, width)
        resized = resize_bilinear(torch.from_numpy(images), IMAGE_SIZE)
        expected = arrays[f"{height}x{width}_resized_rows"]
        assert np.array_equal(resized[0, list(ROWS)].numpy(), expected), (height, width)
        expected = arrays[f"{height}x{width}_input_rows"]
        assert np.array_equal(normalise(resized)[0, list(ROWS)].numpy(), expected), (height, width)
        if (height, width) == (IMAGE_SIZE, IMAGE_SIZE):
            assert np.array_equal(images.astype(np.float32), resized * 128 + 128)


@pytest.mark.parametrize("container", ["torch_fidelity", "pytorch_fid"])
def test_a_state_dict_holds_the_weights_of_the_graph(
    container: str, evaluator_features_case: Any, synthetic_inception: Callable[[int], Graph]
) -> None:
    """Both published layouts give the very same arrays, so the very same features."""
    graph = synthetic_inception(evaluator_features_case.meta["width_divisor"])
    assert equal_weights(read_weights(graph.pb), read_weights(getattr(graph, container)))
