"""Weights of Inception-2015-12-05, the same arrays from every container.

Containers: the frozen graph (.pb), and the state dict that torch-fidelity and pytorch-fid publish
(.pth, in torch's zip or its older format). Legend: O, I channels; H, W kernel; D pooled width,
K classes.
"""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.features.inception.graph_file import Node, read_nodes
from evalsuite.features.inception.layers import (
    BATCH_NORM_EPSILON,
    IMAGE_CHANNELS,
    LAYERS,
    NUM_CLASSES,
    POOL_WIDTH,
    Layer,
)

Array = NDArray[np.float32]
Shape = tuple[int, ...]
_DIVISORS = (1, 2, 4, 8, 16)
"""Channel counts that all layers can be divided by: narrow twins for tests."""
_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Parts of a batch norm by their names in the graph, with those in a state dict."""
_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError, LookupError),
    *(ArithmeticError, RecursionError, MemoryError, RuntimeError, ImportError, AssertionError),
    *(OSError, zipfile.BadZipFile, struct.error),
)
"""What torch raises for a file that is damaged or would run code."""
_SHOWN = 3


class ConvWeights(NamedTuple):
    """One convolution and its batch norm; gamma is 1 where the graph does not scale by it."""

    kernel_OIHW: Array
    gamma_O: Array
    beta_O: Array
    mean_O: Array
    variance_O: Array


class InceptionWeights(NamedTuple):
    """Everything that decides features."""

    layers: dict[str, ConvWeights]
    """By the module names of `LAYERS`, all 94."""
    classes_DK: Array
    """Logits are pool @ classes; the bias is not used, as ADM does not use it."""


def read_weights(path: Path) -> InceptionWeights:
    """Weights from a .pb or .pth file; which it is, its first bytes say.

    Raises:
        DataError: it is damaged, or a tensor is missing, unknown, mis-shaped or not finite.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"cannot read weights {path}: {error.strerror}") from error
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        return _from_state_dict(path, mapped=start[:1] != b"\x80")
    return _from_graph(path)


def fold(weights: ConvWeights) -> tuple[Array, Array]:
    """Kernel [O,I,H,W] and bias [O] that do convolution and batch norm at once; via float64."""
    scale_O = weights.gamma_O.astype(np.float64)
    scale_O /= np.sqrt(weights.variance_O.astype(np.float64) + BATCH_NORM_EPSILON)
    kernel = weights.kernel_OIHW * scale_O[:, None, None, None]
    bias_O = weights.beta_O - weights.mean_O * scale_O
    return kernel.astype(np.float32), bias_O.astype(np.float32)


def _from_graph(path: Path) -> InceptionWeights:
    """Of the graph's nodes only constants with the names of the table, and the batch norms."""
    constants: dict[str, Node] = {}
    norms: dict[str, Node] = {}
    for node in read_nodes(path):
        if node.op == "Const" and _is_weight(node.name):
            if node.name in constants:
                raise DataError(f"weights {path}: the graph has {node.name!r} twice")
            constants[node.name] = node
        elif node.op == "BatchNormWithGlobalNormalization":
            norms[node.name] = node
    names = ["softmax/weights", "softmax/biases"]
    for layer in LAYERS:
        names.append(f"{layer.scope}/conv2d_params")
        names.extend(f"{layer.scope}/batchnorm/{part}" for part in _BATCH_NORM)
    _check_names(path, constants, names)
    arrays = {name: node.tensor() for name, node in constants.items()}
    classes_DK = arrays["softmax/weights"]
    divisor = _divisor(path, "softmax/weights", classes_DK.shape)
    expected = {"softmax/weights": classes_DK.shape, "softmax/biases": (NUM_CLASSES,)}
    for layer in LAYERS:
        shape_OIHW = _kernel_shape(layer, divisor)
        shapes: dict[str, Shape] = {f"batchnorm/{part}": shape_OIHW[:1] for part in _BATCH_NORM}
        shapes["conv2d_params"] = tuple(shape_OIHW[axis] for axis in (2, 3, 1, 0))
        expected |= {f"{layer.scope}/{name}": shape for name, shape in shapes.items()}
    _check_arrays(path, arrays, expected)
    return InceptionWeights(
        {layer.module: _graph_layer(path, layer, arrays, norms) for layer in LAYERS},
        classes_DK.copy(),
    )


def _graph_layer(
    path: Path, layer: Layer, arrays: Mapping[str, Array], norms: Mapping[str, Node]
) -> ConvWeights:
    norm_name = f"{layer.scope}/batchnorm"
    gamma, beta, mean, variance = (arrays[f"{norm_name}/{part}"] for part in _BATCH_NORM)
    if norm_name not in norms:
        raise DataError(f"weights {path}: the graph has no batch norm {norm_name!r}")
    epsilon = norms[norm_name].number("variance_epsilon")
    if epsilon is None or np.float32(epsilon) != np.float32(BATCH_NORM_EPSILON):
        raise DataError(
            f"weights {path}: {norm_name!r} has variance_epsilon {epsilon}, not"
            f" {BATCH_NORM_EPSILON}: it is not the graph of 2015-12-05"
        )
    if not norms[norm_name].flag("scale_after_normalization"):
        gamma = np.ones_like(gamma)
    kernel_OIHW = arrays[f"{layer.scope}/conv2d_params"].transpose(3, 2, 0, 1)
    return ConvWeights(kernel_OIHW, gamma, beta, mean, variance)


def _is_weight(name: str) -> bool:
    scope, _, last = name.rpartition("/")
    return last == "conv2d_params" or scope == "softmax" or scope.endswith("/batchnorm")


def _from_state_dict(path: Path, *, mapped: bool) -> InceptionWeights:
    state = _load_state(path, mapped=mapped)
    names = ["fc.weight", "fc.bias"]
    for layer in LAYERS:
        names.append(f"{layer.module}.conv.weight")
        names.extend(f"{layer.module}.bn.{part}" for part in _BATCH_NORM.values())
    _check_names(path, state, names)
    arrays = {name: value.numpy() for name, value in state.items()}
    classes_KD = arrays["fc.weight"]
    divisor = _divisor(path, "fc.weight", classes_KD.shape[::-1])
    expected: dict[str, Shape] = {"fc.weight": classes_KD.shape, "fc.bias": (NUM_CLASSES,)}
    for layer in LAYERS:
        shape_OIHW = _kernel_shape(layer, divisor)
        expected[f"{layer.module}.conv.weight"] = shape_OIHW
        for part in _BATCH_NORM.values():
            expected[f"{layer.module}.bn.{part}"] = shape_OIHW[:1]
    _check_arrays(path, arrays, expected)
    layers = {
        layer.module: ConvWeights(
            arrays[f"{layer.module}.conv.weight"],
            *(arrays[f"{layer.module}.bn.{part}"] for part in _BATCH_NORM.values()),
        )
        for layer in LAYERS
    }
    return InceptionWeights(layers, np.ascontiguousarray(classes_KD.T))


def _load_state(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    """The float32 tensors of a state dict; code in it is refused, counters are left out."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, on how the file was written
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's text would advise to run the code
            reason = (
                "it is damaged, or holds other Python objects than tensors, which are not loaded"
            )
        raise DataError(f"cannot read weights {path}: {reason}; download it again") from error
    if not isinstance(state, dict):
        raise DataError(f"weights {path} hold no state dict, but one {type(state).__name__}")
    kept = {k: v for k, v in state.items() if not str(k).endswith(".num_batches_tracked")}
    for name, value in kept.items():
        if not (
            isinstance(value, Tensor)
            and (value.dtype, value.layout) == (torch.float32, torch.strided)
        ):
            raise DataError(f"weights {path}: {str(name)[:100]!r} is no float32 tensor")
    return {str(name): value.detach() for name, value in kept.items()}


def _kernel_shape(layer: Layer, divisor: int) -> tuple[int, int, int, int]:
    rgb = layer.channels_in == IMAGE_CHANNELS
    channels_in = layer.channels_in if rgb else layer.channels_in // divisor
    return (layer.channels_out // divisor, channels_in, *layer.kernel)


def _divisor(path: Path, name: str, shape_DK: Shape) -> int:
    """How much narrower than the original the network is, by the width of the last layer."""
    for divisor in _DIVISORS:
        if shape_DK == (POOL_WIDTH // divisor, NUM_CLASSES):
            return divisor
    raise DataError(
        f"weights {path}: {name!r} maps {' to '.join(map(str, shape_DK))}, not"
        f" {POOL_WIDTH} features to {NUM_CLASSES} classes: it is another network"
    )


def _check_names(path: Path, found: Iterable[str], names: Iterable[str]) -> None:
    found, expected = set(found), set(names)
    faults = [
        f"{what} {_some(differing)}"
        for what, differing in (("missing", expected - found), ("unknown", found - expected))
        if differing
    ]
    if faults:
        raise DataError(
            f"weights {path} are not those of Inception-2015-12-05: {'; '.join(faults)}"
        )


def _check_arrays(path: Path, arrays: Mapping[str, Array], expected: Mapping[str, Shape]) -> None:
    wrong = {
        f"{name} {list(arrays[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if arrays[name].shape != tuple(shape)
    }
    if wrong:
        raise DataError(
            f"weights {path} are not those of Inception-2015: other shapes: {_some(wrong)}"
        )
    broken = {name for name, array in arrays.items() if not np.isfinite(array).all()}
    if broken:
        raise DataError(f"weights {path} hold NaN or infinity: {_some(broken)}")


def _some(names: Iterable[str]) -> str:
    """The first of many names, with their count."""
    ordered = sorted(name[:100] for name in names)
    rest = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + rest
