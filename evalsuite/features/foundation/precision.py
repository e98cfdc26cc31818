"""float32 that is float32, whatever the process has set."""

import contextlib
from collections.abc import Iterator

import torch

from evalsuite.config import ExtractorSpec
from evalsuite.errors import ConfigError


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """float32 products and convolutions in float32: no TF32, no bfloat16, one choice of kernels."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    cudnn = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    try:
        with cudnn:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_float32(spec: ExtractorSpec) -> None:
    """Raise ConfigError when an extractor wants another arithmetic."""
    if spec.precision != "float32":
        raise ConfigError(f"extractor {spec.name}: {spec.family} runs in float32 only")
