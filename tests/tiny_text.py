"""Small text models on disk: a preset that extends a published one, weights, encoder, prompts."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from evalsuite.models.checkpoints.state import random_state
from evalsuite.models.registry import family_named

T, D = 12, 64
"""Places for the denoiser and width of the small encoder."""
PROMPTS = ("a cat", "a dog & <b>", "an oil painting", "a cat", "the sea at night")
"""Five prompts, four different ones; one that a page must escape."""
NEGATIVE = "a red chair"
LONG = "two dogs and a bird in the garden at night and a cat on a red chair by the sea"
_SIZES: dict[str, dict[str, int]] = {
    "pixelgen": {"input_size": 16, "num_blocks": 2, "bottleneck_dim": 16},
    "pixnerd": {
        "num_encoder_blocks": 2,
        "num_decoder_blocks": 1,
        "decoder_hidden_size": 8,
        "base_size": 16,
    },
}
_SHARED = {
    "patch_size": 4,
    "hidden_size": 32,
    "num_groups": 2,
    "num_text_blocks": 1,
    "txt_embed_dim": D,
    "txt_max_length": T,
}
_EXTENDS = {"pixelgen": "pixelgen-xxl-t2i-512", "pixnerd": "pixnerd-xxl-t2i"}


class TinyText(NamedTuple):
    """Files of a small text model."""

    preset: Path
    weights: Path
    encoder: Path
    prompts: Path

    @property
    def options(self) -> tuple[object, ...]:
        """Model, weights, encoder and prompts as a person gives them."""
        model = ("--model", self.preset, "--weights", self.weights)
        return (*model, "--text-encoder", self.encoder, "--prompts", self.prompts)


def network_of(kind: str, **changes: int) -> dict[str, Any]:
    """The sizes of a small `pixelgen` or `pixnerd` text network."""
    return {**_SHARED, **_SIZES[kind], **changes}


def tiny_text(folder: Path, kind: str = "pixelgen") -> TinyText:
    """Preset, Lightning checkpoint with raw and averaged weights, Qwen3 encoder, prompts."""
    sys.path.insert(0, str(Path(__file__).parent / "conditioning"))
    from tiny_encoders import save_qwen

    (folder / "qwen").mkdir()
    network = network_of(kind)
    ckpt = save_lightning(
        folder / f"{kind}.ckpt",
        {
            "denoiser": state_of(f"{kind}-text", network, 1),
            "ema_denoiser": state_of(f"{kind}-text", network, 2),
        },
    )
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return TinyText(write_preset(folder, kind), ckpt, save_qwen(folder / "qwen"), prompts)


def write_preset(folder: Path, kind: str = "pixelgen", **changes: Any) -> Path:
    """The preset, quick and in float32, so that encoder and network have all their digits."""
    content = {
        "extends": _EXTENDS[kind],
        "name": f"tiny-{kind}",
        "network": network_of(kind),
        "size": [16, 16],
        "text": {"encoder": {"repo": "someone/model", "max_length": T, "width": D}},
        "sampling": {"num_steps": 3, "dtype": "float32"},
        "batch_size": 4,
        "evaluation": {"num_samples": 14},
        **changes,
    }
    path = folder / f"tiny-{kind}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def state_of(family: str, network: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """Random weights of a network."""
    with torch.device("meta"):
        module = family_named(family).build(network)
    random_state(module, seed)
    return {key: tensor.detach() for key, tensor in module.state_dict().items()}


def save_lightning(path: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """A checkpoint of a Lightning training, with what belongs to the training alone."""
    state = {f"{name}.{key}": t for name, group in groups.items() for key, t in group.items()}
    state |= {"diffusion_trainer.proj.0.0.weight": torch.ones(4, 4)}
    content = {
        "epoch": 7,
        "global_step": 1000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(8)}}, "param_groups": []}],
        "lr_schedulers": [],
    }
    torch.save(content, path)
    return path
