"""Bfloat16 on a CPU: the dtypes and the precision of autocast, in float32 arithmetic."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evalsuite.config import ModelPreset, load_spec
from evalsuite.models.cpu_bfloat16 import ProductsInFloat32
from evalsuite.models.loading import load_module

A = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(1))
B = torch.randn(3, 64, 7, generator=torch.Generator().manual_seed(2))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
KERNEL = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(4)) / 7
CALLS: dict[str, Callable[[], Tensor]] = {
    "linear": lambda: functional.linear(A, B[0].T, B[0, 0]),
    "bmm": lambda: torch.bmm(A, B),
    "matmul": lambda: torch.matmul(A, B),
    "operator": lambda: A @ B,
    "conv2d": lambda: functional.conv2d(IMAGE, KERNEL, stride=4),
    "attention": lambda: functional.scaled_dot_product_attention(
        *(A[:, None] / 4, A[:, None], A[:, None])
    ),
}


def under_autocast(call: Callable[[], Tensor], *, ours: bool) -> Tensor:
    products = ProductsInFloat32() if ours else contextlib.nullcontext()
    with torch.autocast("cpu", dtype=torch.bfloat16), products:
        return call()


@pytest.mark.parametrize("name", CALLS)
def test_a_product_is_that_of_autocast_but_for_the_order_of_its_sum(name: str) -> None:
    """bfloat16 out, within one rounding step of autocast's own kernel and of float64."""
    ours, theirs = (under_autocast(CALLS[name], ours=flag) for flag in (True, False))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-9)


def test_a_product_is_the_rounded_exact_one() -> None:
    """Inputs rounded to bfloat16, the sum exact to float32, one rounding at the end."""
    exact = (A.bfloat16().double() @ B.bfloat16().double()).to(torch.bfloat16)
    apart = (under_autocast(CALLS["bmm"], ours=True) != exact).float().mean()
    assert apart < 0.01  # a float32 sum may fall on the other side of a rounding boundary


def test_outside_of_autocast_nothing_changes() -> None:
    """As in JiT's attention scores, which leave autocast to stay in float32."""
    with ProductsInFloat32():
        assert torch.equal(torch.bmm(A, B), A @ B)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.autocast("cpu", enabled=False):
                inner = torch.bmm(A, B)
            assert torch.equal(inner, torch.bmm(A, B)) is False
    assert inner.dtype == torch.float32


@pytest.mark.parametrize("name", ["pixnerd-digits"])
def test_a_network_keeps_its_error_against_float32(name: str) -> None:
    """The same flow: as far from float32 as under autocast's own kernels, within a tenth."""
    preset = load_spec(ModelPreset, name)
    assert preset.weights.file
    module = load_module(
        preset.family, preset.network, preset.path.parent / preset.weights.file, "averaged"
    )
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    t, labels = torch.tensor([0.1, 0.4, 0.7, 0.95]), torch.tensor([0, 3, 5, 10])

    def error(*, ours: bool) -> float:
        out = under_autocast(lambda: module(x, t, labels), ours=ours)
        assert out.dtype == torch.bfloat16
        return float((out - module(x, t, labels)).square().mean().sqrt())

    assert error(ours=True) == pytest.approx(error(ours=False), rel=0.1)
