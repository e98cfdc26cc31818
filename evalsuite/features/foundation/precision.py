"""float32 that is float32, whatever the process has set."""

import contextlib
from collections.abc import Iterator

import torch


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
