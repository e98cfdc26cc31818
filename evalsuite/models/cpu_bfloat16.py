"""Bfloat16 matrix products on a CPU, rounded as autocast rounds them, computed in float32.

A CPU without bfloat16 units runs such products many times slower than float32 ones. Inputs and
results are rounded to bfloat16 here and the sums run in float32, which is what those units do: what
differs is the order of a sum, not its precision.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PRODUCTS: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.linear,
        functional.conv2d,
        functional.scaled_dot_product_attention,
        torch.bmm,
        torch.matmul,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
    }
)
"""The products of our networks among the functions that CPU autocast runs in bfloat16."""


class ProductsInFloat32(TorchFunctionMode):
    """While it is on, products under CPU autocast are computed as this module says."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Compute one function; all but the products under autocast as they are."""
        named = dict(kwargs or {})
        if func not in PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            exact = func(*map(_rounded, args), **{k: _rounded(v) for k, v in named.items()})
        return exact.to(torch.bfloat16)


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any argument of a torch function
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.bfloat16).float()
    return value
