"""Checkpoints of a made-up training: the digits model's weights behind less and less noise."""

import os
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from evalsuite.config import ModelPreset, load_spec

MODEL = "pixnerd-digits"


def weights() -> dict[str, torch.Tensor]:
    """The released weights."""
    preset = load_spec(ModelPreset, MODEL)
    return load_file(preset.path.parent / str(preset.weights.file))


def write_checkpoint(path: Path, noise: float, *, seed: int = 0) -> Path:
    """Save the weights with noise of a part of each tensor's spread, as a training would."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: value + noise * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        for key, value in weights().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return settle(path)


def settle(path: Path, age_s: float = 3600.0) -> Path:
    """Let a file look as old as that."""
    at = time.time() - age_s
    os.utime(path, (at, at))
    return path
