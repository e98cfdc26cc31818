"""What decides bits: the identity of a machine, and torch as it is set up for it."""

import pytest
import torch

from evalsuite.errors import EnvironmentProblem
from evalsuite.pipeline.numerics import numerics_id, numerics_of, prepare_torch, resolve_device

CPU = torch.device("cpu")


def test_one_thread_on_a_cpu() -> None:
    """Threads change the bits of convolutions."""
    torch.set_num_threads(2)
    prepare_torch(CPU)
    assert torch.get_num_threads() == 1
    assert numerics_of(CPU)["threads"] == 1


def test_the_identity_is_stable_and_every_field_is_in_it() -> None:
    prepare_torch(CPU)
    fields = numerics_of(CPU)
    assert {"device", "architecture", "torch", "model", "threads"} <= fields.keys()
    assert numerics_id(fields) == numerics_id(dict(reversed(numerics_of(CPU).items())))
    others = {numerics_id({**fields, key: "other"}) for key in fields}
    assert len(others | {numerics_id(fields)}) == len(fields) + 1


def test_a_limit_on_instruction_sets_is_another_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN then chooses other kernels."""
    before = numerics_id(numerics_of(CPU))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert numerics_id(numerics_of(CPU)) != before


def test_devices() -> None:
    assert resolve_device("cpu") == CPU
    if torch.cuda.is_available():
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
        return
    assert resolve_device("auto") == CPU
    with pytest.raises(EnvironmentProblem, match="torch sees no GPU here"):
        resolve_device("cuda")
