"""float32 stays float32 meanwhile, and the process has its settings back."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from evalsuite.metrics.exact_arithmetic import exact_float32
from evalsuite.metrics.kernel_distance import kernel_distance, kid_reference
from evalsuite.metrics.mmd import cmmd, cmmd_reference

CUDNN = torch.backends.cudnn


@pytest.fixture
def hasty() -> Iterator[None]:
    """A process that has chosen speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    with CUDNN.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        yield
    torch.set_float32_matmul_precision(before)


def settings() -> tuple[object, ...]:
    return (
        torch.get_float32_matmul_precision(),
        CUDNN.benchmark,
        CUDNN.deterministic,
        CUDNN.allow_tf32,
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.usefixtures("hasty")
def test_everything_is_set_and_put_back() -> None:
    with torch.autocast("cpu"):
        with exact_float32("cpu"):
            assert settings() == ("highest", False, True, False, False, True)
        assert settings() == ("medium", True, False, True, True, False)
        with pytest.raises(KeyError), exact_float32("cpu"):
            raise KeyError
        assert settings() == ("medium", True, False, True, True, False)


@pytest.mark.usefixtures("hasty")
def test_distances_between_kernels_do_not_take_over_what_the_process_has_set() -> None:
    """With autocast to bfloat16 their products would have two to three digits."""
    x_ND, y_MD = np.random.default_rng(0).normal(size=(2, 80, 64)).astype(np.float32)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(
                (
                    kernel_distance(x_ND, kid_reference(y_MD)).value,
                    cmmd(x_ND, cmmd_reference(y_MD)).value,
                )
            )
    assert found[0] == found[1]
