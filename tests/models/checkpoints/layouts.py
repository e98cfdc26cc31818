"""Small networks and checkpoints in the layouts that the authors' programs write."""

import argparse
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evalsuite.models.checkpoints.state import random_state
from evalsuite.models.registry import family_named

KEYS = Path(__file__).parents[2] / "golden" / "cases"
NETWORK: dict[str, Any] = {
    "in_channels": 3,
    "patch_size": 4,
    "num_groups": 2,
    "hidden_size": 16,
    "hidden_size_x": 8,
    "num_blocks": 3,
    "num_cond_blocks": 2,
    "nerf_mlpratio": 2,
    "num_classes": 5,
}
FAMILY = "pixnerd-class"


def on_meta(family: str = FAMILY, network: Mapping[str, Any] | None = None) -> nn.Module:
    """A network without values."""
    with torch.device("meta"):
        return family_named(family).build(NETWORK if network is None else network)


def small_state(seed: int = 0, family: str = FAMILY, **changes: Any) -> dict[str, Tensor]:
    """Random weights of the small network."""
    network = on_meta(family, {**NETWORK, **changes})
    random_state(network, seed)
    return {key: tensor.detach() for key, tensor in network.state_dict().items()}


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def optimizer_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """An AdamW state after one real step."""
    parameters = [nn.Parameter(tensor.clone()) for tensor in state.values()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def lightning(raw: Mapping[str, Tensor], ema: Mapping[str, Tensor], **extra: Any) -> dict[str, Any]:
    """What Lightning saves of a training of PixNerd or PixelDiT."""
    head = {"diffusion_trainer.proj.0.0.weight": torch.ones(4, 4)}
    state = {**prefixed("denoiser.", raw), **prefixed("ema_denoiser.", ema), **head}
    return {
        "epoch": 319,
        "global_step": 1600000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 320}}}},
        "optimizer_states": [optimizer_state(raw)],
        "lr_schedulers": [],
        **extra,
    }


def jit(
    raw: Mapping[str, Tensor], first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> Any:
    """What JiT's training program saves, with its command line as an object."""
    return {
        "model": prefixed("net.", raw),
        "model_ema1": prefixed("net.", first),
        "model_ema2": prefixed("net.", second),
        "optimizer": optimizer_state(raw),
        "epoch": 600,
        "args": argparse.Namespace(ema_decay1=0.9999, ema_decay2=0.9996),
    }


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def sharded(state: Mapping[str, Tensor], folder: Path, num_shards: int = 3) -> Path:
    """A folder as diffusers writes it above its size limit of a shard; gives the index."""
    folder.mkdir(parents=True, exist_ok=True)
    keys, weight_map = list(state), {}
    for shard in range(num_shards):
        name = f"diffusion_pytorch_model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {key: state[key] for key in keys[shard::num_shards]}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def exported(state: Mapping[str, Tensor], folder: Path, config: Mapping[str, Any]) -> Path:
    """A diffusers pipeline folder with one safetensors file; gives the folder."""
    (folder / "transformer").mkdir(parents=True)
    save_file(dict(state), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixNerdPipeline"}))
    return folder


def hollow(shapes: Mapping[str, tuple[int, ...]], path: Path, code: str = "F32") -> Path:
    """A safetensors file of these shapes whose values are a hole in the file: zeros, on no disk."""
    header, stop = {}, 0
    for key, shape in shapes.items():
        start, stop = stop, stop + math.prod(shape) * {"F32": 4, "BF16": 2}[code]
        header[key] = {"dtype": code, "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    with path.open("wb") as raw:
        raw.write(len(text).to_bytes(8, "little") + text)
        raw.truncate(8 + len(text) + stop)
    return path


def full_size_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a published model, such as `pixnerd/keys_c2i_xl_256`."""
    content = json.loads((KEYS / f"{name}.json").read_text())
    return {key: tuple(shape) for key, shape in content.items()}
