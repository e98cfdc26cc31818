"""A network's dtypes and error under bfloat16 autocast, and its cost on the meta device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

BF16, FP32 = torch.bfloat16, torch.float32

WATCHED: dict[Callable[..., Any], str] = {
    torch.bmm: "bmm",
    nn.functional.scaled_dot_product_attention: "attention",
}


class _Arguments(TorchFunctionMode):
    """Keeps the dtypes of every call of watched functions, before autocast converts them."""

    def __init__(self, flow: dict[str, Any]) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WATCHED:
            self._flow.setdefault(WATCHED[func], []).append(dtypes(args))
        return func(*args, **(kwargs or {}))


def dtypes(values: Any) -> Any:
    """The dtype of a tensor, or the tuple of those among several values."""
    if isinstance(values, Tensor):
        return values.dtype
    return tuple(value.dtype for value in values if isinstance(value, Tensor))


def autocast_flow(network: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    """Dtypes by name in one forward under autocast: `out`, `NAME` and `NAME.in`, watched calls.

    CPU autocast converts linear, bmm and attention as CUDA's does. It lacks CUDA's entry for
    `linalg.vector_norm`, so PixNerd's networks take the norm of their generated matrices in float32
    themselves; that CUDA runs `rsqrt` and nearest resizing in float32 changes nothing here, where
    they see float32 only.
    """
    flow: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, out: Any) -> None:
            flow.setdefault(f"{name}.in", dtypes(args))
            flow.setdefault(name, dtypes(out))

        return hook

    hooks = [m.register_forward_hook(keep(name)) for name, m in network.named_modules() if name]
    device = inputs[0].device.type
    with torch.no_grad(), torch.autocast(device, BF16), _Arguments(flow):
        flow["out"] = network(*inputs).dtype
    for hook in hooks:
        hook.remove()
    return flow


def bf16_error(network: nn.Module, *inputs: Tensor) -> float:
    """Root-mean-square error of the autocast output, relative to the float32 output's."""
    with torch.no_grad():
        exact = network(*inputs)
        with torch.autocast("cpu", BF16):
            rounded = network(*inputs)
    return float((rounded.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def randomise(network: nn.Module) -> nn.Module:
    """Weights as large as those of a trained network, the same every time: none is left at zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        offset = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        with torch.no_grad():
            parameter.copy_(offset + scale * values)
    return network.eval().requires_grad_(False)


def count_flops(network: nn.Module, size: tuple[int, int], condition: Tensor) -> int:
    """FLOPs of one forward of one image; network and condition live on the meta device."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *size), torch.zeros(1), condition)
    return int(counter.get_total_flops())
