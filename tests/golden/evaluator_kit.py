"""The evaluator's goldens: synthetic Inception weights in three containers, and seeded images."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.features.inception.weights import InceptionWeights


class Graph(NamedTuple):
    """One synthetic network: a frozen graph and two state dicts with the same weights."""

    pb: Path
    torch_fidelity: Path
    pytorch_fid: Path


def program(folder: Path, name: str) -> ModuleType:
    """A program of the kit as a module."""
    spec = importlib.util.spec_from_file_location(f"golden_{name}", folder / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_graph(folder: Path, divisor: int, target: Path) -> Graph:
    """Have the kit's generator write its network, whose channels are divided, into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    given = sys.argv
    sys.argv = ["make", "--out", str(target), "--width-divisor", str(divisor)]
    try:
        program(folder, "make_synthetic_inception").main()
    finally:
        sys.argv = given
    patterns = ("*.pb", "*_tf.pth", "*_pf.pth")
    return Graph(*(next(target.glob(pattern)) for pattern in patterns))


def images_of(folder: Path, meta: dict[str, Any], height: int, width: int) -> NDArray[np.uint8]:
    """The images of a features case at one size, checked against their digest."""
    square = program(folder, "make_images").images(
        meta["seed"], meta["n"], max(height, width), meta["variant"]
    )
    images = np.ascontiguousarray(square[:, :height, :width])
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == meta["images_sha256"][f"{height}x{width}"]
    return images


def equal_weights(first: InceptionWeights, second: InceptionWeights) -> bool:
    """Whether every array is equal, to the bit."""
    return np.array_equal(first.classes_DK, second.classes_DK) and all(
        np.array_equal(a, b)
        for name, layer in first.layers.items()
        for a, b in zip(layer, second.layers[name], strict=True)
    )
