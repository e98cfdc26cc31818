"""What only a GPU can show of networks and samplers: nearness to the CPU, dtypes, equal bits."""

from collections.abc import Callable

import pytest
import torch
from dtype_flow import autocast_flow, randomise
from test_native import JIT, PIXELDIT, PIXNERD
from torch import Tensor

from evalsuite.config import SamplingSettings
from evalsuite.models.native import NativeModel
from evalsuite.models.pixnerd.class_conditional import PixNerdClassConditional, PixNerdClassConfig
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.sampling.noise import draw_noise, sample_generators

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FAMILIES = {
    "pixnerd-class": (PIXNERD, None),
    "pixeldit-class": (PIXELDIT, None),
    "pixelgen-class": (JIT, 0.05),
}


@pytest.fixture(params=FAMILIES)
def sampled(request: pytest.FixtureRequest) -> Callable[[torch.device, str], Tensor]:
    """Images of four labels by one family, on a device, in a dtype."""
    network, t_eps = FAMILIES[request.param]

    def sample(device: torch.device, dtype: str) -> Tensor:
        prepare_torch(device)
        fields = {"solver": "heun", "num_steps": 4, "guidance_scale": 2.0, "dtype": dtype}
        settings = SamplingSettings.model_validate(fields | {"t_eps": t_eps})
        model = NativeModel(request.param, network, t_eps)
        model.load(None, "random:1", device, dtype)
        generators = sample_generators(range(4))
        noise = draw_noise(generators, (3, 8, 8)).to(device)
        with torch.inference_mode():
            return model.sample(noise, [1, 2, 3, 4], generators, settings).cpu()

    return sample


def rms_share(a: Tensor, b: Tensor) -> float:
    """Root mean square of a - b over the spread of b."""
    return float((a - b).square().mean().sqrt() / b.std())


def test_float32_on_a_gpu_is_near_the_cpu(sampled: Callable[..., Tensor]) -> None:
    """Float32 sums in another order; TF32 would give about 1e-3."""
    assert rms_share(sampled(CUDA, "float32"), sampled(CPU, "float32")) < 5e-5


def test_bfloat16_on_a_gpu_is_bfloat16(sampled: Callable[..., Tensor]) -> None:
    """Away from float32 as the CPU's bfloat16 is, within a factor."""
    exact = sampled(CPU, "float32")
    on_cpu, on_gpu = (rms_share(sampled(device, "bfloat16"), exact) for device in (CPU, CUDA))
    assert 0.2 * on_cpu < on_gpu < 5 * on_cpu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_batch_has_the_same_bits(sampled: Callable[..., Tensor], dtype: str) -> None:
    assert torch.equal(sampled(CUDA, dtype), sampled(CUDA, dtype))


def test_cuda_autocast_has_the_dtypes_of_the_cpus() -> None:
    """The table that the CPU tests compare with the fact sheet holds on CUDA."""
    network = randomise(PixNerdClassConditional(PixNerdClassConfig(**PIXNERD)))  # type: ignore[arg-type]
    inputs = (torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([1, 2]))
    on_cpu = autocast_flow(network, *inputs)
    on_gpu = autocast_flow(network.to(CUDA), *(value.to(CUDA) for value in inputs))
    assert on_gpu == on_cpu
