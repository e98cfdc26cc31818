"""The evaluator's synthetic kit for tests that need TensorFlow: its programs, graphs and a process.

Starting TensorFlow takes many seconds, so one process serves all tests of a graph.
"""

import atexit
import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.features.tensorflow_graph.client import TensorFlowGraph

GOLDENS = Path(os.environ.get("EVALSUITE_GOLDENS") or Path(__file__).parent / "golden" / "cases")
KIT = GOLDENS / "evaluator"
NARROWEST = max(int(path.stem.rpartition("_d")[2]) for path in KIT.glob("bn_calib_d*.npz"))
"""Width divisor of the quickest graph that the kit can make."""
_LASTING = contextlib.ExitStack()
atexit.register(_LASTING.close)


@functools.cache
def program(name: str) -> ModuleType:
    """A program of the kit, such as `make_images`, as a module."""
    spec = importlib.util.spec_from_file_location(f"kit_{name}", KIT / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def graph_file(width_divisor: int) -> Path:
    """A synthetic graph that lasts until the tests end."""
    folder = _LASTING.enter_context(tempfile.TemporaryDirectory(prefix="kit-"))
    generator = [sys.executable, str(KIT / "make_synthetic_inception.py"), "--pb-only"]
    options = ["--out", folder, "--width-divisor", str(width_divisor)]
    subprocess.run([*generator, *options], check=True, capture_output=True)
    (path,) = Path(folder).glob("*.pb")
    return path


@functools.cache
def running_graph(width_divisor: int) -> TensorFlowGraph:
    """TensorFlow with a synthetic graph, on one thread, until the tests end."""
    graph = TensorFlowGraph(graph_file(width_divisor), num_threads=1)
    return _LASTING.enter_context(graph)


def images_of(recipe: dict[str, Any], start: int = 0, count: int | None = None) -> NDArray[Any]:
    """The images of a case's `ref`, `sample` or `ref_stats_from`, or some of them."""
    number = recipe["n"] - start if count is None else count
    images: NDArray[Any] = program("make_images").images(
        recipe["seed"], number, recipe["size"], recipe["variant"], start
    )
    return images


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The JSON of a case and the arrays of the NPZ beside it."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as archive:
        return json.loads(path.read_text()), {name: archive[name] for name in archive.files}
