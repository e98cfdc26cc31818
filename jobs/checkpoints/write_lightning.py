"""Write a full-size Lightning checkpoint of random weights, as the authors' trainings save them.

Raw and averaged weights are two different sets of random numbers. For trials of loading, memory and
time where the published file is not at hand:

    python -m jobs.checkpoints.write_lightning --model pixnerd-xl-512 --output trial.ckpt
"""

import argparse
import mmap
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from evalsuite.config import ModelPreset, load_spec
from evalsuite.errors import UsageError
from evalsuite.models.checkpoints.state import random_state
from evalsuite.models.registry import family_named

Optimizer = Literal["none", "small", "full"]
"""How much of AdamW's state to write: nothing, that of one parameter, that of all of them."""

SEEDS = {"denoiser.": 0, "ema_denoiser.": 1}
_HEAD_WIDTH = 768  # of the features that the training aligns with (DINOv2 base)
_EPOCH, _STEP = 319, 1_600_000


def write_lightning(preset: ModelPreset, path: Path, optimizer: Optimizer = "none") -> None:
    """Write the checkpoint; holds about one copy of the weights in memory.

    The file is laid out first, with holes for the values, which are then filled in place.

    Raises:
        UsageError: a preset whose authors save something else.
    """
    if preset.weights.ema != "ema_denoiser":
        raise UsageError(f"the authors of {preset.name} save no Lightning checkpoint")
    with torch.serialization.skip_data():
        torch.save(_content(_on_meta(preset), optimizer), path)
    for prefix, seed in SEEDS.items():
        network = _on_meta(preset)
        random_state(network, seed)
        values = network.state_dict()
        del network
        stored = _writable(path)["state_dict"]
        while values:
            key, value = values.popitem()
            stored[f"{prefix}{key}"].copy_(value)
    _fill_the_rest(_writable(path))


def _on_meta(preset: ModelPreset) -> nn.Module:
    with torch.device("meta"):
        return family_named(preset.family).build(preset.network)


def _content(network: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What Lightning saves, with tensors that have no values yet."""
    weights = {key: _hole(tensor) for key, tensor in network.state_dict().items()}
    state = OrderedDict(
        (f"{prefix}{key}", _hole(tensor)) for prefix in SEEDS for key, tensor in weights.items()
    )
    state |= _alignment_head(weights)
    return {
        "epoch": _EPOCH,
        "global_step": _STEP,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": _EPOCH}}}},
        "optimizer_states": [] if optimizer == "none" else [_adamw(weights, optimizer)],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"eval_original_model": False},
    }


def _hole(tensor: Tensor) -> Tensor:
    """A tensor of that shape whose memory is never touched."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _alignment_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The three layers, from the network's width, that training alone uses."""
    width = weights["t_embedder.mlp.2.weight"].shape[0]
    sides = {0: (width, width), 2: (width, width), 4: (_HEAD_WIDTH, width)}
    head = {}
    for layer, shape in sides.items():
        head[f"diffusion_trainer.proj.0.{layer}.weight"] = torch.empty(shape)
        head[f"diffusion_trainer.proj.0.{layer}.bias"] = torch.empty(shape[0])
    return head


def _adamw(weights: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Any]:
    parameters = list(weights.values())
    kept = parameters if optimizer == "full" else parameters[:1]
    states = {
        index: {"step": torch.empty(()), "exp_avg": _hole(p), "exp_avg_sq": _hole(p)}
        for index, p in enumerate(kept)
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "params": list(range(len(parameters)))}
    return {"state": states, "param_groups": [group]}


def _writable(path: Path) -> dict[str, Any]:
    """The checkpoint, mapped so that what is written to its tensors goes to the file."""
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        tree: dict[str, Any] = torch.load(path, mmap=True, weights_only=True)
    return tree


def _fill_the_rest(tree: dict[str, Any]) -> None:
    """Values of the alignment head and the optimizer's counters; its moments stay zero."""
    for key, tensor in tree["state_dict"].items():
        if key.startswith("diffusion_trainer."):
            tensor.fill_(0.01)
    for optimizer in tree["optimizer_states"]:
        for state in optimizer["state"].values():
            state["step"].fill_(_STEP)


def main() -> None:
    """Write the checkpoint and print its size and the time that it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a preset")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--optimizer", choices=get_args(Optimizer), default="none")
    arguments = parser.parse_args()
    began = time.perf_counter()
    write_lightning(load_spec(ModelPreset, arguments.model), arguments.output, arguments.optimizer)
    num_bytes = arguments.output.stat().st_size
    print(f"{num_bytes / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s: {arguments.output}")


if __name__ == "__main__":
    main()
