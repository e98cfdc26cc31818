"""Every preset's network at full size: one forward on the CPU with random weights."""

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from evalsuite.config import DtypeName, ModelPreset, load_spec, names_of
from evalsuite.models.loading import as_denoiser, load_module
from evalsuite.models.registry import family_named

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NATIVE = [name for name in names_of(ModelPreset) if load_spec(ModelPreset, name).sampling]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    gc.collect()


@torch.inference_mode()
def velocity(name: str, dtype: DtypeName) -> tuple[Tensor, Tensor]:
    """Noise of the preset's size, and the velocity there at t = 0.3."""
    preset = load_spec(ModelPreset, name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, *preset.size, generator=generator)
    condition = torch.tensor([1])
    if preset.text is not None:
        encoder = preset.text.encoder
        condition = torch.randn(1, encoder.max_length, encoder.width, generator=generator)
    network = load_module(preset.family, preset.network, None, "random:0")
    t_eps = preset.sampling.t_eps or 1e-6
    denoiser = as_denoiser(network, family_named(preset.family), CPU, dtype, t_eps)
    return x, denoiser(x, torch.tensor([0.3]), condition)


@pytest.mark.parametrize("name", NATIVE)
def test_a_full_size_forward(name: str) -> None:
    x, v = velocity(name, "float32")
    assert v.shape == x.shape
    assert v.dtype == torch.float32
    assert torch.isfinite(v).all()
    assert v.std() > 1e-3


def test_a_full_size_forward_in_bfloat16() -> None:
    """Near the float32 one: the error is that of bfloat16, far below the velocity's spread."""
    _, exact = velocity("pixnerd-xl-256", "float32")
    _, rounded = velocity("pixnerd-xl-256", "bfloat16")
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - exact).std() < 0.1 * exact.std()
