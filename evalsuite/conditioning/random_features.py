"""Features for runs with random weights, which have no text encoder."""

import hashlib

import torch
from torch import Tensor


def random_features(prompt: str, seed: int, length: int, width: int) -> Tensor:
    """Standard normal features [length, width], float32 on the CPU, decided by (seed, prompt).

    The generator takes 32 bits of the SHA-256 of both, all that torch's CPU generator uses.
    """
    digest = hashlib.sha256(f"text/{seed}/{prompt}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:4], "little"))
    return torch.randn(length, width, generator=generator, dtype=torch.float32)
