"""What only a GPU can show of distances between features: the CPU's numbers."""

import numpy as np
import pytest
import torch

from evalsuite.metrics.distances import Arithmetic
from evalsuite.metrics.kernel_distance import kernel_distance, kid_reference
from evalsuite.metrics.manifolds import ManifoldSettings, manifold_metrics
from evalsuite.metrics.neighbours import nearest

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
TIES = 3


def features(seed: int, count: int, dim: int = 512) -> np.ndarray:
    """As pooled features are: not negative, of norm about 17."""
    drawn = np.random.default_rng(seed).normal(0.5, 0.5, (count, dim))
    return np.maximum(drawn, 0).astype(np.float32)


@pytest.mark.parametrize("arithmetic", list(Arithmetic))
def test_shares_are_the_cpus(arithmetic: Arithmetic) -> None:
    """But for ties: a distance may be rounded to the other side of a radius."""
    samples, reference = features(1, 3000), features(2, 2500)
    on_cpu, on_gpu = (
        manifold_metrics(samples, reference, ManifoldSettings(3, arithmetic, device=device))
        for device in (torch.device("cpu"), CUDA)
    )
    for ours, theirs in zip(on_gpu.values, on_cpu.values, strict=True):
        assert abs(ours - theirs) <= TIES / 2500 + 1e-9


def test_kernel_distance_is_the_cpus() -> None:
    samples, reference = features(1, 3000), features(2, 2500)
    on_cpu, on_gpu = (
        kernel_distance(samples, kid_reference(reference, device=device), device)
        for device in ("cpu", "cuda")
    )
    assert on_gpu.value == pytest.approx(on_cpu.value, rel=1e-4, abs=1e-7)


def test_neighbours_are_the_cpus() -> None:
    samples, reference = features(1, 200), features(2, 5000)
    on_cpu, on_gpu = (
        nearest(samples, reference, 3, device) for device in (torch.device("cpu"), CUDA)
    )
    np.testing.assert_array_equal(on_gpu.indices_NQ, on_cpu.indices_NQ)
    np.testing.assert_allclose(on_gpu.distances_NQ, on_cpu.distances_NQ, rtol=1e-6)
