"""Weights: strict keys, shapes and values, unreadable files, and what a loaded network promises."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evalsuite.config import ModelPreset, load_spec
from evalsuite.errors import DataError
from evalsuite.models.checkpoints.reading import open_checkpoint, read_safetensors
from evalsuite.models.checkpoints.state import load_network
from evalsuite.models.loading import (
    as_denoiser,
    hold_products_in_bfloat16,
    in_bfloat16,
    load_module,
)
from evalsuite.models.registry import family_named

PRESET = load_spec(ModelPreset, "pixnerd-digits")
WEIGHTS = PRESET.path.parent / PRESET.weights.file
CPU = torch.device("cpu")


@pytest.fixture
def state() -> dict[str, Tensor]:
    """The digits model's tensors."""
    return read_safetensors(WEIGHTS)


def refused(state: dict[str, Tensor], folder: Path) -> str:
    """The line that refuses a file of `state` for the digits network, which stays as it was."""
    save_file(state, folder / "some.safetensors")
    checkpoint = open_checkpoint(folder / "some.safetensors")
    network = family_named(PRESET.family).build(PRESET.network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(DataError) as caught:
        load_network(network, checkpoint, "", PRESET.family, "some.safetensors")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert "some.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_tensor_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    del state["blocks.0.attn.qkv.weight"]
    assert "missing blocks.0.attn.qkv.weight" in refused(state, tmp_path)


def test_an_unexpected_tensor_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["pos_embed"] = torch.zeros(3)
    assert "unexpected pos_embed" in refused(state, tmp_path)


def test_another_shape_is_named_with_both_shapes(state: dict[str, Tensor], tmp_path: Path) -> None:
    bias = state["final_layer.linear.bias"]
    state["final_layer.linear.bias"] = torch.zeros(len(bias) + 1)
    assert "final_layer.linear.bias is (4,), not (3,)" in refused(state, tmp_path)


def test_many_faults_are_counted(state: dict[str, Tensor], tmp_path: Path) -> None:
    """The line stays a line."""
    faults = len(state) - 1
    one = {"final_layer.linear.bias": state["final_layer.linear.bias"]}
    assert f"and {faults - 4} more" in refused(one, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(
    state: dict[str, Tensor], value: float, tmp_path: Path
) -> None:
    state["final_layer.linear.weight"].view(-1)[5] = value
    assert "tensor final_layer.linear.weight holds NaN or infinite" in refused(state, tmp_path)


def test_unreadable_files(tmp_path: Path) -> None:
    """Truncated in the header, truncated in the data, empty, another format, missing, a folder."""
    content = WEIGHTS.read_bytes()
    faulty = {
        "header": content[:20],
        "data": content[:-100],
        "empty": b"",
        "zip": b"PK\x03\x04" + bytes(100),
    }
    paths = [tmp_path / f"{name}.safetensors" for name in faulty]
    for path, text in zip(paths, faulty.values(), strict=True):
        path.write_bytes(text)
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    for path in (*paths, tmp_path / "none.safetensors", folder):
        with pytest.raises(DataError) as caught:
            read_safetensors(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    """Even under the name of a safe file: nothing in it is executed."""
    path = tmp_path / "evil.safetensors"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"w": Evil()}, path)
    with pytest.raises(DataError):
        read_safetensors(path)
    assert not (tmp_path / "executed").exists()


def test_loading_is_frozen_and_bfloat16_is_near_float32() -> None:
    """The same weights in either precision; a velocity has the dtype of its network."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t, labels = torch.tensor([0.3, 0.8]), torch.tensor([4, 10])
    outputs = []
    for dtype in ("float32", "bfloat16"):
        module = load_module(PRESET.family, PRESET.network, WEIGHTS, "averaged")
        denoiser = as_denoiser(module, family_named(PRESET.family), CPU, dtype, 0.05)
        out = denoiser(x, t, labels)
        assert out.dtype == getattr(torch, dtype)
        assert not out.requires_grad
        outputs.append(out.float())
    difference = (outputs[0] - outputs[1]).abs().max()
    assert 0 < difference < 0.1 * outputs[0].abs().max()


def test_weights_of_another_size_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """A file that is right by itself, for another network."""
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    network = {**PRESET.network, "num_classes": 11}
    with pytest.raises(DataError, match=r"w\.safetensors do not fit.*y_embedder"):
        load_module(PRESET.family, network, path, "averaged")


def test_weights_held_in_bfloat16_give_the_bits_of_autocast(state: dict[str, Tensor]) -> None:
    """Rounding a weight once is what autocast does at every call."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t, labels = torch.tensor([0.3, 0.8]), torch.tensor([4, 10])
    plain, held = (
        load_module(PRESET.family, PRESET.network, WEIGHTS, "averaged") for _ in range(2)
    )
    hold_products_in_bfloat16(held)
    assert {p.dtype for p in held.parameters()} == {torch.float32, torch.bfloat16}
    outputs = [in_bfloat16(module, CPU)(x, t, labels) for module in (plain, held)]
    assert torch.equal(*outputs)


def test_random_weights_depend_on_their_seed_alone() -> None:
    """`random:SEED` gives the same network in every process, and another for another seed."""
    first, again, other = (
        load_module(PRESET.family, PRESET.network, None, f"random:{seed}").state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
