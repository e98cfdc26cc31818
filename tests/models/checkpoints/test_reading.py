"""Every layout that a model is published in opens as the same groups of the same tensors."""

import collections
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import exported, jit, lightning, prefixed, saved, sharded, small_state
from safetensors.torch import save_file
from torch import Tensor

from evalsuite.errors import DataError, UsageError
from evalsuite.models.checkpoints.choosing import choose_group
from evalsuite.models.checkpoints.reading import open_checkpoint, read_safetensors


def same(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return given.keys() == wanted.keys() and all(torch.equal(given[k], wanted[k]) for k in wanted)


def refusal(path: Path, **options: Any) -> str:
    """The line that refuses a file; it names the file and is one line."""
    with pytest.raises(DataError) as caught:
        open_checkpoint(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("name", ["epoch%3D319-step%3D1600000_emainit.ckpt", "weights.safetensors"])
def test_a_lightning_file_under_any_name(tmp_path: Path, name: str, restricted: bool) -> None:
    """Both copies apart, the training head and the optimiser aside, step and version told."""
    raw, ema = small_state(1), small_state(2)
    path = saved(lightning(raw, ema), tmp_path / name)
    checkpoint = open_checkpoint(path, restricted=restricted)
    assert checkpoint.layout == "lightning"
    assert set(checkpoint.groups) == {"denoiser", "ema_denoiser"}
    assert same(checkpoint.tensors("denoiser"), raw)
    assert same(checkpoint.tensors("ema_denoiser"), ema)
    assert checkpoint.about["global_step"] == 1600000
    assert checkpoint.about["lightning_version"] == "2.5.0"
    assert checkpoint.other["diffusion_trainer"].num_tensors == 1
    assert checkpoint.other["optimizer_states"].num_tensors == 3 * len(raw)
    assert checkpoint.files == (path,)


def test_infos_are_those_of_the_tensors(tmp_path: Path) -> None:
    state = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(()), "c": torch.ones(0)}
    save_file(state, tmp_path / "w.safetensors")
    for path in (saved(state, tmp_path / "w.pt"), tmp_path / "w.safetensors"):
        assert open_checkpoint(path).groups[""] == {
            "a": ("bfloat16", (2, 3), 12),
            "b": ("float32", (), 4),
            "c": ("float32", (0,), 0),
        }


@pytest.mark.parametrize("restricted", [False, True])
def test_unprefixed_compiled_and_wrapped_keys(tmp_path: Path, restricted: bool) -> None:
    """Wrappers of torch.compile, DDP and other programs are not part of a name."""
    state = small_state()
    for prefix in ("", "_orig_mod.", "module.", "net.", "transformer.", "module._orig_mod.net."):
        path = saved(prefixed(prefix, state), tmp_path / "w.pth")
        checkpoint = open_checkpoint(path, restricted=restricted)
        assert checkpoint.layout == "state_dict"
        assert set(checkpoint.groups) == {""}
        assert same(checkpoint.tensors(""), state)


def test_raw_text_model_of_pixeldit(tmp_path: Path) -> None:
    """`core.` is a group; the alignment head beside it is set aside by its name."""
    state = {**prefixed("core.", small_state()), "_repa_projector.0.weight": torch.ones(2)}
    checkpoint = open_checkpoint(saved({"state_dict": state}, tmp_path / "w.pth"))
    assert set(checkpoint.groups) == {"core"}
    assert set(checkpoint.other) == {"_repa_projector"}


def test_two_averages_with_their_decays(tmp_path: Path) -> None:
    """The dot of a decay does not end the prefix."""
    first, second = small_state(1), small_state(2)
    state = {**prefixed("ema_0.9999.", first), **prefixed("ema_denoiser_0.999.", second)}
    checkpoint = open_checkpoint(saved({"state_dict": state}, tmp_path / "w.ckpt"))
    assert set(checkpoint.groups) == {"ema_0.9999", "ema_denoiser_0.999"}
    assert same(checkpoint.tensors("ema_0.9999"), first)


def test_tensors_beside_the_weights_are_no_weights(tmp_path: Path) -> None:
    """States of generators and means of losses share no name with a network."""
    state, side = small_state(), {"rng_state": {"cpu": torch.zeros(8, dtype=torch.uint8)}}
    side["metrics"] = {"loss": torch.ones(())}
    plain = open_checkpoint(saved({"state_dict": state, "epoch": 1, **side}, tmp_path / "a.ckpt"))
    assert set(plain.groups) == {""}
    assert set(plain.other) == {"rng_state", "metrics"}
    assert choose_group(plain, "auto", None) == choose_group(plain, "raw", None) == ""
    both = {**prefixed("denoiser.", state), **prefixed("ema_denoiser.", state)}
    opened = open_checkpoint(saved({"state_dict": both, **side}, tmp_path / "b.ckpt"))
    assert choose_group(opened, "raw", "ema_denoiser") == "denoiser"
    named = open_checkpoint(saved({"model": state, "ema": state, **side}, tmp_path / "c.pth"))
    assert set(named.groups) == {"model", "ema"}
    beside = {"state_dict": state, "ema": prefixed("module.", state)}
    assert set(open_checkpoint(saved(beside, tmp_path / "d.pth")).groups) == {"", "ema"}


def test_the_counter_of_an_averaged_model_is_set_aside_and_tells_the_average(
    tmp_path: Path,
) -> None:
    """`torch.optim.swa_utils.AveragedModel` keeps it among the weights."""
    average = {**prefixed("module.", small_state()), "n_averaged": torch.tensor(7)}
    for tree, group in (
        (prefixed("ema_denoiser.", average), "ema_denoiser"),
        ({"ema": average, "model": small_state()}, "ema"),
        ({"state_dict": average}, "averaged_model"),
        (average, "averaged_model"),
        (prefixed("_orig_mod.", average), "averaged_model"),
        ({"model": average}, "model.averaged_model"),
        (prefixed("model.", average), "model.averaged_model"),
    ):
        opened = open_checkpoint(saved(tree, tmp_path / "w.pth"))
        assert same(opened.tensors(group), small_state())
        assert choose_group(opened, "auto", None) == group
        assert set(opened.other) == {"n_averaged"}
        if "model" not in opened.groups:
            with pytest.raises(UsageError, match="averaged weights only"):
                choose_group(opened, "raw", None)


def test_named_states_of_jit(tmp_path: Path) -> None:
    """Three copies; with the command line as an object the file is refused, or read restricted."""
    raw, first, second = small_state(1), small_state(2), small_state(3)
    path = saved(jit(raw, first, second), tmp_path / "checkpoint-last.pth")
    line = refusal(path)
    assert "argparse.Namespace" in line
    assert f"evalsuite convert {path} --output model.safetensors" in line
    checkpoint = open_checkpoint(path, restricted=True)
    assert checkpoint.layout == "named_states"
    assert list(checkpoint.groups) == ["model", "model_ema1", "model_ema2"]
    assert same(checkpoint.tensors("model_ema2"), second)
    assert checkpoint.about == {"epoch": 600}
    assert "argparse.Namespace" in checkpoint.foreign
    assert set(checkpoint.other) == {"optimizer"}


CONFIGS = {
    "newer": {"_class_name": "PixNerdTransformer2DModel", "hidden_size": 16, "use_ema": True},
    "older": {"denoiser_spec": {"class_path": "x.y", "init_args": {}}, "ema_decay": 0.9999},
}


@pytest.mark.parametrize("config", CONFIGS)
def test_diffusers_export_that_holds_its_weights_twice(tmp_path: Path, config: str) -> None:
    """With the newer and the older configuration, by the folder or by its transformer."""
    ema = small_state(2)
    twice = {**prefixed("denoiser.", ema), **prefixed("ema_denoiser.", ema)}
    twice = {key: tensor.clone() for key, tensor in twice.items()}
    folder = exported(twice, tmp_path / "PixNerd-XL-16-256", CONFIGS[config])
    metadata = {"checkpoint": "x.ckpt", "source_prefix": "ema_denoiser."}
    (folder / "conversion_metadata.json").write_text(json.dumps(metadata))
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.groups) == {"denoiser", "ema_denoiser"}
    assert same(checkpoint.tensors("ema_denoiser"), ema)
    assert checkpoint.about["source_prefix"] == "ema_denoiser."
    assert checkpoint.about.get("class_name") == CONFIGS[config].get("_class_name")
    assert checkpoint.path == folder
    assert same(open_checkpoint(folder / "transformer").tensors("ema_denoiser"), ema)


def test_sharded_export(tmp_path: Path) -> None:
    state = small_state()
    index = sharded(state, tmp_path / "transformer")
    for path in (tmp_path, tmp_path / "transformer", index):
        checkpoint = open_checkpoint(path)
        assert checkpoint.layout == "safetensors_sharded"
        assert len(checkpoint.files) == 3
        assert same(checkpoint.tensors(""), state)


def test_faulty_shards(tmp_path: Path) -> None:
    """A missing shard, a tensor that is not where it should be, a path out of the folder."""
    index = sharded(small_state(), tmp_path)
    content = json.loads(index.read_text())
    key, name = next(iter(content["weight_map"].items()))
    others = sorted(set(content["weight_map"].values()) - {name})
    for wrong, told in ((others[0], "lacks"), ("../w.safetensors", "no plain file name")):
        changed = {**content, "weight_map": {**content["weight_map"], key: wrong}}
        index.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=told):
            open_checkpoint(tmp_path)
    del content["weight_map"][key]
    index.write_text(json.dumps(content))
    with pytest.raises(DataError, match="does not place"):
        open_checkpoint(tmp_path)
    (tmp_path / others[1]).unlink()
    with pytest.raises(DataError, match=f"{others[1]}, which is missing"):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    assert "readme.md" in refusal(tmp_path)


FAULTY = {
    "empty": (b"", "empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html></html>", "web page"),
    "gguf": (b"GGUF" + bytes(100), "GGUF"),
    "text": (b"hello, this is text of no known kind", "neither"),
    "pickle": (b"\x80\x04\x95" + bytes(40), "bare pickle"),
    "zip": (b"PK\x03\x04" + bytes(200), "cut short or damaged"),
    "header": (b"\xff\x00\x00\x00\x00\x00\x00\x00{" + bytes(30), "cut short"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_files_that_are_no_checkpoints(tmp_path: Path, kind: str) -> None:
    """Told by their bytes, under whatever name, with what to do."""
    content, told = FAULTY[kind]
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    assert told in refusal(path)
    assert told in refusal(path, restricted=True)


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.ckpt")


@pytest.mark.parametrize("kept", [0.999, 0.7, 0.05])
def test_truncated_downloads(tmp_path: Path, kept: float) -> None:
    """A torch file and a safetensors file that end early."""
    state = small_state()
    save_file(state, tmp_path / "w.safetensors")
    for path in (saved(state, tmp_path / "w.ckpt"), tmp_path / "w.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        refusal(path)
        refusal(path, restricted=True)


def test_a_legacy_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(small_state(), path, _use_new_zipfile_serialization=False)
    assert "torch.save it again" in refusal(path)


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript program, not a checkpoint: save the state_dict()" in refusal(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "not one of torch.save" in refusal(path)


def test_a_folder_without_weights_says_what_one_holds(tmp_path: Path) -> None:
    """And names a few of the files, the likely ones first."""
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "run.ckpt"):
        (tmp_path / name).write_text("")
    line = refusal(tmp_path)
    assert "which would hold diffusion_pytorch_model.safetensors" in line
    assert "it holds run.ckpt, a.txt, b.txt, c.txt and 1 more: name the weights file" in line


def test_what_is_unknown_or_cut_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"no weights at all, and a few more bytes")
    assert "convert them where they were made" in refusal(path)
    save_file({"a": torch.ones(9)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "cut short or damaged; download it again" in refusal(path)


def test_pickles_without_weights(tmp_path: Path) -> None:
    """A list, a dict of numbers, a state dict with something else among its tensors."""
    contents = ([1, 2], {"epoch": 3}, {"state_dict": {"a": torch.ones(1), "b": "text"}})
    for content in contents:
        refusal(saved(content, tmp_path / "w.pt"))


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    """With and without torch.compile's prefix: which one is meant is not guessed."""
    state = {"a.weight": torch.ones(1), "_orig_mod.a.weight": torch.zeros(1)}
    assert "twice" in refusal(saved(state, tmp_path / "w.pt"))


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        path = saved({"a": torch.eye(2).to_sparse_csr()}, tmp_path / "w.pt")
        refusal(path)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("strides", [(0, 0), (0, 1), (1, 0)])
def test_tensors_larger_than_their_storage_are_refused(
    tmp_path: Path, strides: tuple[int, int], restricted: bool
) -> None:
    """By name: a few bytes would become terabytes."""
    base = torch.ones(2000)
    for size in ((1000, 1000), (2000, 2)):
        content = {"state_dict": {"a.weight": base.as_strided(size, strides)}}
        path = saved(content, tmp_path / "w.pt")
        assert f"a.weight has the shape {size} and only 2000" in refusal(
            path, restricted=restricted
        )


@pytest.mark.parametrize("restricted", [False, True])
def test_tied_and_overlapping_tensors_within_their_storage_stay(
    tmp_path: Path, restricted: bool
) -> None:
    base = torch.arange(24.0)
    state = {"a": base, "b": base, "c": base[:1].expand(9), "d": base.view(4, 6).t()}
    checkpoint = open_checkpoint(saved(state, tmp_path / "w.pt"), restricted=restricted)
    assert same(checkpoint.tensors(""), state)


@pytest.mark.parametrize("restricted", [False, True])
def test_leftovers_are_counted_once_and_as_they_are_stored(
    tmp_path: Path, restricted: bool
) -> None:
    """In lists that share themselves 2**60 times, that hold themselves, and in deep ones."""
    tensor, other = torch.ones(5), torch.ones(3)
    shared: list[Any] = [tensor]
    for _ in range(60):
        shared = [shared, shared]
    shared.append(shared)
    deep: list[Any] = [other, other.expand(100, 3)]
    for _ in range(300):
        deep = [deep]
    content = {"state_dict": {"w": tensor.clone()}, "shared": shared, "deep": deep}
    checkpoint = open_checkpoint(saved(content, tmp_path / "w.pt"), restricted=restricted)
    assert checkpoint.other == {"shared": (1, 20), "deep": (2, 24)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("restricted", [False, True])
def test_views_lie_as_their_conversion_does(
    tmp_path: Path, restricted: bool, dtype: torch.dtype
) -> None:
    """Row by row: the strides of a matrix decide last bits of its products."""
    kernel = torch.arange(32.0).view(8, 4, 1, 1).to(memory_format=torch.channels_last)
    assert kernel.is_contiguous()  # torch says so, and takes another path for it
    assert kernel.stride() == (4, 1, 4, 4)
    state = {"turned": torch.arange(24.0).view(4, 6).t(), "part": torch.ones(4, 8)[:, :5]}
    state |= {"kernel": kernel, "none": torch.ones(0, 3), "one": torch.tensor(2.0)}
    checkpoint = open_checkpoint(saved(state, tmp_path / "w.pt"), restricted=restricted)
    for name, wanted in state.items():
        for given in (checkpoint.tensor("", name), checkpoint.aligned("", name, dtype)):
            assert given.stride() == torch.empty(wanted.shape).stride()
            assert torch.equal(given, wanted.to(given.dtype))


def test_a_number_too_long_to_be_written_is_no_fact(tmp_path: Path) -> None:
    content = {"state_dict": {"w": torch.ones(1)}, "epoch": 10**5000, "step": 2**63}
    opened = open_checkpoint(saved(content, tmp_path / "w.pt"), restricted=True)
    assert opened.about == {"step": 2**63}


def test_names_that_are_one_as_text_are_refused(tmp_path: Path) -> None:
    state = {"5": torch.ones(1), 5: torch.ones(1)}
    assert "one as text" in refusal(saved({"state_dict": state}, tmp_path / "w.pt"))


class Settings:
    """A class that the reader must not need."""

    def __init__(self) -> None:
        self.learning_rate = 1e-4


def test_foreign_classes_are_named_and_their_weights_can_be_taken(tmp_path: Path) -> None:
    """Hyper-parameters as objects, in containers and as dictionary-like classes of libraries."""
    state = small_state()
    extra = {
        "hyper_parameters": {"settings": Settings(), "deep": [Settings()]},
        "callbacks": collections.ChainMap({"a": Settings()}),
        "datamodule": collections.UserDict(a=1),
    }
    path = saved(lightning(state, state, **extra), tmp_path / "w.ckpt")
    line = refusal(path)
    assert "Settings" in line
    checkpoint = open_checkpoint(path, restricted=True)
    assert any(name.endswith(".Settings") for name in checkpoint.foreign)
    assert same(checkpoint.tensors("ema_denoiser"), state)


def test_read_safetensors_takes_nothing_else(tmp_path: Path) -> None:
    path = saved(small_state(), tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="not in the safetensors format"):
        read_safetensors(path)
