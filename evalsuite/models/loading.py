"""Weights of a denoiser from a safetensors file, strictly, with the network ready to sample.

Checkpoints are data: nothing in a file is executed, and a key too many, a key too few or a wrong
shape is an error that names it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from evalsuite.config import DtypeName, Scalar
from evalsuite.errors import DataError
from evalsuite.models.registry import family_named
from evalsuite.sampling.guidance import Denoiser


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        DataError: the file is missing, truncated or of another format.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read weights {path} as safetensors: {error}") from error


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load `state` into `network` when keys and shapes are exactly the network's.

    Raises:
        DataError: keys are missing, left over or mis-shaped, or a value is NaN or infinite.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    given = {key: tuple(tensor.shape) for key, tensor in state.items()}
    faults = [f"missing {key}" for key in sorted(wanted.keys() - given.keys())]
    faults += [f"unexpected {key}" for key in sorted(given.keys() - wanted.keys())]
    faults += [
        f"{key} is {given[key]}, not {wanted[key]}"
        for key in sorted(wanted.keys() & given.keys())
        if wanted[key] != given[key]
    ]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise DataError(f"weights {origin} do not fit the model: {'; '.join(faults[:4])}{more}")
    for key, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise DataError(f"weights {origin}: tensor {key} holds NaN or infinite values")
    network.load_state_dict(dict(state))


def load_denoiser(
    family: str,
    network: Mapping[str, Scalar],
    weights_path: Path,
    device: torch.device,
    dtype: DtypeName,
) -> Denoiser:
    """A frozen velocity network on `device`, evaluated in `dtype` with float32 in and out.

    Weights stay float32; `bfloat16` runs the matrix products under autocast, as the authors do.
    """
    module = family_named(family).build(network)
    load_strictly(module, read_safetensors(weights_path), weights_path.name)
    module = module.eval().requires_grad_(False).to(device)
    if dtype == "float32":
        return module

    def in_bfloat16(x_BCHW: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            out: Tensor = module(x_BCHW, t_B, condition)
        return out.float()

    return in_bfloat16
