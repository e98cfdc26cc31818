"""float32 that is float32, whatever the process has set; for extractors and for distances."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def exact_float32(device: torch.device | str) -> Iterator[None]:
    """Products and convolutions in float32 meanwhile, without gradients.

    No TF32 on a GPU, no bfloat16 inside float32 products on a CPU, no autocast on this device, and
    cuDNN's deterministic kernels, chosen without timing. The process then has its settings back.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    cudnn = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    autocast = torch.autocast(torch.device(device).type, enabled=False)
    try:
        with torch.inference_mode(), autocast, cudnn:
            yield
    finally:
        torch.set_float32_matmul_precision(before)
