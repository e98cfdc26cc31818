"""Reading LPIPS's weights from the files that there are of them.

Three layouts are known: a torchvision classifier (`features.0.weight`, ...), the linear weights of
the lpips package (`lin0.model.1.weight`, ...), and a whole network of that package
(`net.slice1.0.weight`, ... and the linear weights, those twice).
"""

import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.features.lpips.network import BACKBONES, Lpips, lpips_shapes

_SLICE = re.compile(r"net\.slice\d+\.(\d+\.(?:weight|bias))")
_TWICE = re.compile(r"lins\.(\d+\.model\.1\.weight)")
_OF_OTHERS = ("classifier.", "scaling_layer.")
"""The classifier's end, which LPIPS does not use, and constants that it has itself."""


def load_lpips(files: Sequence[Path], device: torch.device) -> Lpips:
    """LPIPS with the weights in `files`; which backbone it is, they say.

    Args:
        files: a classifier's and the linear weights', or one that holds both; safetensors, or
            pickled tensors, of which nothing is run.
        device: where it computes.

    Raises:
        DataError: files that are unreadable, hold something else, or do not fit each other.
    """
    weights: dict[str, Tensor] = {}
    for file in files:
        for key, tensor in _weights_of(file).items():
            if key in weights and not torch.equal(weights[key], tensor):
                raise DataError(f"{file}: {key} has other values than in the file before it")
            weights[key] = tensor
    return Lpips(_backbone_of(weights, files), weights, device)


def _backbone_of(weights: dict[str, Tensor], files: Sequence[Path]) -> str:
    """By the shape of the first convolution."""
    names = ", ".join(str(file) for file in files)
    first = "features.0.weight"
    if first not in weights:
        raise DataError(
            f"{names}: no {first}: give a torchvision AlexNet or VGG16 state dict beside LPIPS's"
            " linear weights"
        )
    for backbone in BACKBONES:
        if tuple(weights[first].shape) == lpips_shapes(backbone)[first]:
            return backbone
    raise DataError(f"{names}: neither an AlexNet nor a VGG16: {first} has another shape")


def _weights_of(file: Path) -> dict[str, Tensor]:
    """The weights of a file that LPIPS uses, by the names of `lpips_shapes`."""
    found: dict[str, Tensor] = {}
    for key, tensor in _read(file).items():
        if key.startswith(_OF_OTHERS):
            continue
        if match := _SLICE.fullmatch(key):
            name = f"features.{match[1]}"
        elif match := _TWICE.fullmatch(key):
            name = f"lin{match[1]}"
        else:
            name = key
        if name in found and not torch.equal(found[name], tensor):
            raise DataError(f"{file} holds {name} twice, with other values")
        found[name] = tensor
    return found


def _read(file: Path) -> dict[str, Tensor]:
    try:
        content = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except _UNREADABLE as error:
        # torch's own text is a key of its tables, or advises to run the file's code
        reason = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else "it is damaged, or holds other Python objects than tensors, or no weights"
        )
        raise DataError(
            f"cannot read weights {file}: {reason}; give .safetensors, or .pth as torch.save writes"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise DataError(f"{file} holds no state dict: names and tensors alone are wanted")
    return content


_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
"""What torch raises over files that are not what they should be."""
