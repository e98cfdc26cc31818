"""Networks with their weights, ready to be called as denoisers."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evalsuite.config import RANDOM_WEIGHTS, DtypeName, Scalar
from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.models.checkpoints.state import load_network, random_state
from evalsuite.models.cpu_bfloat16 import ProductsInFloat32
from evalsuite.models.mapped_pages import release_file_pages
from evalsuite.models.registry import ModelFamily, family_named
from evalsuite.sampling.guidance import Denoiser, clean_to_velocity, reversed_time


def load_module(
    family: str, network: Mapping[str, Scalar], weights: Path | None, ema: str
) -> nn.Module:
    """A frozen network on the CPU, float32, with the weights that `ema` names.

    Args:
        family: of the registry.
        network: sizes, as a preset has them.
        weights: a checkpoint; None for random weights.
        ema: a group of the checkpoint, `random:SEED`, or any word for a file without groups.

    Raises:
        DataError: the checkpoint cannot be read or does not fit.
    """
    with torch.device("meta"):
        module = family_named(family).build(network)
    if weights is None:
        random_state(module, int(ema.removeprefix(RANDOM_WEIGHTS)))
    else:
        checkpoint = open_checkpoint(weights)
        group = ema if ema in checkpoint.groups else ""
        load_network(module, checkpoint, group, family, weights.name)
    return module.eval().requires_grad_(False)


def as_denoiser(
    module: nn.Module,
    family: ModelFamily,
    device: torch.device,
    dtype: DtypeName,
    t_eps: float | None = None,
) -> Denoiser:
    """The velocity that a network stands for, evaluated on `device` in `dtype`.

    Weights and inputs are float32. `bfloat16` runs the network under autocast as the authors do;
    its velocity then has the dtype that autocast gives it. `t_eps` is for families that predict the
    clean image.
    """
    module = module.to(device)
    if dtype == "bfloat16":
        hold_products_in_bfloat16(module)
    denoiser: Denoiser = in_bfloat16(module, device) if dtype == "bfloat16" else module
    if family.prediction == "clean":
        assert t_eps is not None
        return clean_to_velocity(denoiser, t_eps)
    return reversed_time(denoiser) if family.prediction == "reversed_velocity" else denoiser


def in_bfloat16(module: nn.Module, device: torch.device) -> Denoiser:
    """The module under bfloat16 autocast; on a CPU with the products of `cpu_bfloat16`."""

    def call(x_BCHW: Tensor, t_B: Tensor, condition: Tensor) -> Tensor:
        products = ProductsInFloat32() if device.type == "cpu" else contextlib.nullcontext()
        with torch.autocast(device.type, dtype=torch.bfloat16), products:
            out: Tensor = module(x_BCHW, t_B, condition)
        return out

    return call


def hold_products_in_bfloat16(module: nn.Module) -> None:
    """Round the weights of Linear and Conv2d layers once.

    Autocast rounds them to the same values, but at every call: frozen weights are not cached. Each
    layer's pages of a mapped file are given back, so that the file and its copy are not both held.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            exact = [parameter.data for parameter in layer.parameters()]
            layer.to(torch.bfloat16)
            for tensor in exact:
                release_file_pages(tensor)
