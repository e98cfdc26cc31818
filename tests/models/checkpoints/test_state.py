"""Weights get into a network strictly, without a copy, and random ones depend on names alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import (
    FAMILY,
    NETWORK,
    exported,
    full_size_shapes,
    hollow,
    lightning,
    on_meta,
    prefixed,
    saved,
    sharded,
    small_state,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from evalsuite.errors import DataError, DivergedError, UsageError
from evalsuite.models.checkpoints.convert import convert
from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.models.checkpoints.state import load_network, random_state
from evalsuite.models.registry import family_named

PRESETS: dict[str, Any] = {
    "small": (FAMILY, NETWORK),
    "smaller": (FAMILY, {**NETWORK, "hidden_size": 8}),
}


def loaded(path: Path, group: str = "", family: str = FAMILY) -> dict[str, Tensor]:
    """The state of a network after loading a group."""
    network = on_meta(family)
    load_network(network, open_checkpoint(path), group, family, path.name)
    return network.state_dict()


def refusal(path: Path, group: str = "", network: nn.Module | None = None) -> str:
    """The line that refuses a file for the small network, which stays as it was."""
    module = on_meta() if network is None else network
    with pytest.raises(DataError) as caught:
        load_network(module, open_checkpoint(path), group, FAMILY, path.name, PRESETS)
    assert all(tensor.is_meta for tensor in module.state_dict().values())
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_layout_gives_the_same_network(tmp_path: Path) -> None:
    raw, ema = small_state(1), small_state(2)
    save_file(ema, tmp_path / "w.safetensors")
    sharded(ema, tmp_path / "sharded")
    places = [
        (saved(lightning(raw, ema), tmp_path / "w.ckpt"), "ema_denoiser"),
        (saved(ema, tmp_path / "w.pth"), ""),
        (tmp_path / "w.safetensors", ""),
        (tmp_path / "sharded", ""),
        (exported(prefixed("ema_denoiser.", ema), tmp_path / "export", {}), "ema_denoiser"),
    ]
    for path, group in places:
        state = loaded(path, group)
        assert all(torch.equal(state[key], ema[key]) for key in ema)
        assert not any(tensor.is_meta for tensor in state.values())


def test_float32_is_used_where_it_lies(tmp_path: Path) -> None:
    """No copy: the network's tensors are the mapped ones."""
    checkpoint = open_checkpoint(saved(small_state(), tmp_path / "w.pth"))
    network = on_meta()
    load_network(network, checkpoint, "", FAMILY, "w")
    mapped = checkpoint.tensors("")
    for key, tensor in network.state_dict().items():
        assert tensor.data_ptr() == mapped[key].data_ptr()


def test_every_container_gives_the_same_bits(tmp_path: Path) -> None:
    """Addresses decide last bits on a CPU, so all weights lie as torch's own memory does."""
    state = small_state(hidden_size=128, num_groups=4)
    save_file(state, tmp_path / "w.safetensors")
    convert(tmp_path / "w.safetensors", "", tmp_path / "converted.safetensors")
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = []
    for path in (
        saved(state, tmp_path / "w.pth"),
        tmp_path / "w.safetensors",
        tmp_path / "converted.safetensors",
    ):
        network = on_meta(FAMILY, {**NETWORK, "hidden_size": 128, "num_groups": 4})
        load_network(network, open_checkpoint(path), "", FAMILY, path.name)
        assert all(tensor.data_ptr() % 64 == 0 for tensor in network.state_dict().values())
        with torch.no_grad():
            outputs.append(network(x, torch.tensor([0.3]), torch.tensor([1])))
    assert all(torch.equal(output, outputs[0]) for output in outputs[1:])


def test_using_the_network_does_not_change_the_file(tmp_path: Path) -> None:
    """The mapping is private."""
    path = saved(small_state(), tmp_path / "w.pth")
    content = path.read_bytes()
    network = on_meta()
    load_network(network, open_checkpoint(path), "", FAMILY, "w")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert path.read_bytes() == content


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    """Exactly: every narrow value is a float32 value."""
    narrow = {key: tensor.to(dtype) for key, tensor in small_state().items()}
    save_file(narrow, tmp_path / "w.safetensors")
    for key, tensor in loaded(tmp_path / "w.safetensors").items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, narrow[key].float())


def test_other_dtypes_are_refused_by_name(tmp_path: Path) -> None:
    state = small_state()
    state["final_layer.linear.bias"] = state["final_layer.linear.bias"].double()
    line = refusal(saved(state, tmp_path / "w.pth"))
    assert "final_layer.linear.bias is float64" in line
    assert "--dtype float32" in line


def test_quantised_weights_are_no_dead_end(tmp_path: Path) -> None:
    """`convert --dtype float32` is not advised: it refuses them too, and for the same reason."""
    state = small_state()
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"].to(torch.int8)
    save_file(state, tmp_path / "w.safetensors")
    line = refusal(tmp_path / "w.safetensors")
    assert "blocks.0.attn.qkv.weight is int8" in line
    assert "take the file that they were made from" in line
    assert "convert" not in line
    with pytest.raises(DataError, match=r"int8 and cannot become float32: such weights are quant"):
        convert(tmp_path / "w.safetensors", "", tmp_path / "out.safetensors", "float32")
    assert not (tmp_path / "out.safetensors").exists()


def test_each_kind_of_fault_is_listed(tmp_path: Path) -> None:
    state = small_state()
    del state["blocks.0.norm1.weight"]
    state["pos_embed"] = torch.ones(3)
    state["final_layer.linear.bias"] = torch.ones(4)
    line = refusal(saved(state, tmp_path / "w.pth"))
    assert "missing blocks.0.norm1.weight;" in line
    assert "unexpected pos_embed;" in line
    assert "final_layer.linear.bias is (4,), not (3,)" in line


def test_many_faults_are_counted(tmp_path: Path) -> None:
    state = small_state()
    line = refusal(saved({"final_layer.linear.bias": torch.ones(3)}, tmp_path / "w.pth"))
    assert f"and {len(state) - 1 - 4} more" in line


def test_keys_beside_the_groups_are_unexpected(tmp_path: Path) -> None:
    """Nothing but the training's own parts is ignored, and these by name."""
    content = lightning(small_state(1), small_state(2))
    content["state_dict"]["vae.encoder.weight"] = torch.ones(1)
    line = refusal(saved(content, tmp_path / "w.ckpt"), "ema_denoiser")
    assert "unexpected vae.encoder.weight" in line
    assert "diffusion_trainer" not in line


def test_a_group_that_fits_but_for_what_stands_beside_it_can_be_converted(tmp_path: Path) -> None:
    """As ema_pytorch saves both sets in one state dict."""
    raw, ema = small_state(1), small_state(2)
    both = {**prefixed("online_model.", raw), **prefixed("ema_model.", ema)}
    path = saved({"initted": torch.tensor(True), "step": torch.tensor(5), **both}, tmp_path / "w")
    line = refusal(path, "ema_model")
    assert f"unexpected initted, online_model.{min(raw)}, " in line
    assert f"`evalsuite convert {path} --ema ema_model --output model.safetensors`" in line
    converted = convert(path, "ema_model", tmp_path / "w.safetensors").path
    assert loaded(converted).keys() == ema.keys()


MARKS = [
    "y_embedder.embedding_table.weight",
    "x_embedder.embedder.0.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.k_norm.weight",
    "blocks.2.param_generator1.0.weight",
]


@pytest.mark.parametrize("shape", [(), (7,), (7, 7, 7)])
@pytest.mark.parametrize("key", MARKS)
def test_a_tensor_of_a_wrong_rank_is_a_line(
    tmp_path: Path, key: str, shape: tuple[int, ...]
) -> None:
    """Those that sizes are inferred from, too."""
    line = refusal(saved({**small_state(), key: torch.zeros(shape)}, tmp_path / "w.pth"))
    assert f"{key} is {shape}, not " in line
    assert "look like pixnerd-class" in line


def test_another_size_is_named_with_its_preset(tmp_path: Path) -> None:
    path = saved(small_state(hidden_size=8), tmp_path / "w.pth")
    line = refusal(path)
    assert "look like pixnerd-class, hidden_size 8" in line
    assert line.endswith("(smaller)")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pixelgen/keys_pixelgen_xl_16_256", "pixelgen-class, hidden_size 1152, depth 28"),
        ("pixeldit/keys_pixeldit_xl_16", "pixeldit-class, hidden_size 1152, patch_depth 26"),
        ("pixnerd/keys_t2i_xxl_heavydecoder", "pixnerd-text, hidden_size 1536"),
    ],
)
def test_another_family_is_named(tmp_path: Path, name: str, told: str) -> None:
    """Full-size shapes."""
    path = hollow(full_size_shapes(name), tmp_path / "w.safetensors")
    assert f"look like {told}" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_no_numbers_are_refused(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    """One such value, in the middle of a tensor."""
    state = {key: tensor.to(dtype) for key, tensor in small_state().items()}
    flat = state["blocks.1.mlp.w2.weight"].view(-1)
    flat[len(flat) // 2] = value
    path = saved(state, tmp_path / "w.pth")
    assert "tensor blocks.1.mlp.w2.weight holds NaN or infinite" in refusal(path)
    with pytest.raises(DivergedError):  # a sweep drops such a checkpoint, and no other
        load_network(on_meta(), open_checkpoint(path), "", FAMILY, path.name, PRESETS)


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved(small_state(), tmp_path / "w.pth"))
    with pytest.raises(UsageError, match=r"no group ema; known: \(no prefix\)"):
        load_network(on_meta(), checkpoint, "ema", FAMILY, "w.pth")


def test_pixelgens_other_spelling_loads(tmp_path: Path) -> None:
    """As its diffusers export names keys, a leading `net.` included."""
    from test_families import diffusers_spelling

    sizes = {"input_size": 8, "patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}
    sizes |= {"num_classes": 3, "in_context_len": 2, "in_context_start": 1, "bottleneck_dim": 4}
    network = on_meta("pixelgen-class", sizes)
    random_state(network, 5)
    state = {key: tensor.detach() for key, tensor in network.state_dict().items()}
    respelled = {diffusers_spelling(key): tensor for key, tensor in state.items()}
    path = saved(prefixed("net.", respelled), tmp_path / "w.pth")
    again = on_meta("pixelgen-class", sizes)
    load_network(again, open_checkpoint(path), "", "pixelgen-class", "w.pth")
    assert all(torch.equal(again.state_dict()[key], state[key]) for key in state)
    both = open_checkpoint(saved({**state, **respelled}, path))
    with pytest.raises(DataError, match="two spellings"):
        load_network(on_meta("pixelgen-class", sizes), both, "", "pixelgen-class", "w.pth")


class WithTable(nn.Module):
    """A network with a buffer outside its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("table", torch.zeros(2), persistent=False)


def test_a_table_without_values_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved({"weight": torch.ones(2)}, tmp_path / "w.pt"))
    with torch.device("meta"):
        network = WithTable()
    with pytest.raises(ValueError, match="table is not in the state dict"):
        load_network(network, checkpoint, "", "unknown", "w")
    built = WithTable()
    load_network(built, checkpoint, "", "unknown", "w")
    assert torch.equal(built.weight, torch.ones(2))


MEMORY_NETWORK = {
    **NETWORK,
    **{"hidden_size": 768, "num_groups": 8, "num_blocks": 4, "num_cond_blocks": 3},
}


@pytest.fixture(scope="module")
def large_state() -> dict[str, Tensor]:
    """About 130 MB of weights."""
    network = on_meta(FAMILY, MEMORY_NETWORK)
    random_state(network, 0)
    return {key: tensor.detach() for key, tensor in network.state_dict().items()}


def write_large(kind: str, state: dict[str, Tensor], folder: Path) -> Path:
    """Both copies in one file, with an optimiser's moment where the layout has room for it."""
    raw = {key: tensor + 1 for key, tensor in state.items()}
    both = {**prefixed("denoiser.", raw), **prefixed("ema_denoiser.", state)}
    if kind == "safetensors":
        save_file(both, folder / "w.safetensors")
        return folder / "w.safetensors"
    moments = {i: {"exp_avg": tensor.clone()} for i, tensor in enumerate(state.values())}
    content = {"epoch": 1, "state_dict": both, "optimizer_states": [{"state": moments}]}
    return saved(content, folder / "w.ckpt")


@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_memory_of_loading(kind: str, large_state: dict[str, Tensor], tmp_path: Path) -> None:
    """The peak is below 1.2 times the weights that are wanted, whatever else the file holds."""
    path = write_large(kind, large_state, tmp_path)
    wanted_bytes = sum(4 * tensor.numel() for tensor in large_state.values())
    assert wanted_bytes > 100e6
    assert path.stat().st_size > 1.9 * wanted_bytes
    probe = Path(__file__).with_name("memory_probe.py")
    command = [sys.executable, probe, path, "ema_denoiser", FAMILY, json.dumps(MEMORY_NETWORK)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    total = sum(tensor.sum(dtype=torch.float64).item() for tensor in large_state.values())
    assert result["sum"] == pytest.approx(total, rel=1e-9)
    assert wanted_bytes * 0.9 < result["peak"] < wanted_bytes * 1.2


def test_random_weights_depend_on_seed_name_and_shape_alone() -> None:
    """A deeper network has the same values where it has the same names."""
    first, again, other = small_state(3), small_state(3), small_state(4)
    deeper = small_state(3, num_blocks=4, num_cond_blocks=2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
    shared = first.keys() & deeper.keys()
    assert len(shared) == len(first)
    assert all(torch.equal(first[key], deeper[key]) for key in shared)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], first["blocks.1.attn.qkv.weight"])


def test_random_weights_have_the_spread_of_their_fan_in() -> None:
    state = small_state(0, hidden_size=256, num_groups=8)
    weight = state["blocks.0.attn.qkv.weight"]
    assert weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert state["blocks.0.norm1.weight"].mean().item() == pytest.approx(1, abs=0.05)
    assert state["blocks.0.attn.proj.bias"].abs().max() < 0.1


@pytest.mark.parametrize("family", ["pixnerd-class", "pixelgen-class", "pixeldit-class"])
def test_random_networks_give_finite_images(family: str) -> None:
    """A trial without a checkpoint computes with numbers of a sensible size."""
    sizes: dict[str, Any] = {"hidden_size": 32, "patch_size": 4, "num_classes": 5}
    sizes |= {
        "pixnerd-class": {k: NETWORK[k] for k in ("num_groups", "num_blocks", "num_cond_blocks")}
        | {"hidden_size_x": 8, "nerf_mlpratio": 2},
        "pixelgen-class": {"input_size": 16, "depth": 10, "num_heads": 2},
        "pixeldit-class": {"num_groups": 2, "patch_depth": 2, "pixel_depth": 2}
        | {"pixel_hidden_size": 8},
    }[family]
    with torch.device("meta"):
        network = family_named(family).build(sizes)
    random_state(network, 1)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = network(x, torch.tensor([0.0, 0.7]), torch.tensor([1, 5]))
    assert torch.isfinite(out).all()
    assert 1e-3 < out.std().item() < 100
