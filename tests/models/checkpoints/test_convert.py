"""`convert` writes one set of weights, whole or not at all, and `inspect` says what there is."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from layouts import (
    FAMILY,
    NETWORK,
    exported,
    full_size_shapes,
    hollow,
    jit,
    lightning,
    on_meta,
    prefixed,
    saved,
    sharded,
    small_state,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evalsuite.artifacts.storage import file_sha256
from evalsuite.cli.checkpoint import convert as convert_command
from evalsuite.cli.checkpoint import inspect_checkpoint
from evalsuite.config import ModelPreset, load_spec
from evalsuite.errors import DataError, EvalsuiteError, StorageError, UsageError
from evalsuite.models.checkpoints import convert as convert_module
from evalsuite.models.checkpoints.convert import convert
from evalsuite.models.checkpoints.inspect import inspect
from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.models.checkpoints.state import load_network


def test_a_file_with_foreign_classes_becomes_loadable(tmp_path: Path) -> None:
    """What `open_checkpoint` refuses and points here for."""
    raw, first, second = small_state(1), small_state(2), small_state(3)
    path = saved(jit(raw, first, second), tmp_path / "checkpoint-last.pth")
    written = convert(path, "model_ema1", tmp_path / "model.safetensors")
    assert written.sha256 == file_sha256(written.path)
    assert written.num_bytes == written.path.stat().st_size
    assert open_checkpoint(written.path).about["group"] == "model_ema1"
    network = on_meta()
    load_network(network, open_checkpoint(written.path), "", FAMILY, "model.safetensors")
    assert all(torch.equal(network.state_dict()[key], first[key]) for key in first)


def test_the_file_says_where_it_came_from(tmp_path: Path) -> None:
    state = small_state()
    path = saved(lightning(state, state), tmp_path / "w.ckpt")
    convert(path, "ema_denoiser", tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as opened:
        assert opened.metadata() == {
            "format": "pt",
            "source": "w.ckpt",
            "source_sha256": file_sha256(path),
            "group": "ema_denoiser",
            "epoch": "319",
            "global_step": "1600000",
        }


def test_dtypes_shapes_and_strides_are_kept_or_widened(tmp_path: Path) -> None:
    """Also transposed views, scalars, empty tensors and integers; more than one portion."""
    state = {
        "large": torch.arange(5_000_000, dtype=torch.float16),
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "count": torch.tensor([3], dtype=torch.int64),
        "mask": torch.tensor([True, False]),
    }
    path = saved(state, tmp_path / "w.pt")
    convert(path, "", tmp_path / "stored.safetensors")
    convert(path, "", tmp_path / "wide.safetensors", "float32")
    stored = load_file(tmp_path / "stored.safetensors")
    wide = load_file(tmp_path / "wide.safetensors")
    assert stored.keys() == wide.keys() == state.keys()
    for key, tensor in state.items():
        assert stored[key].dtype == tensor.dtype
        assert torch.equal(stored[key], tensor)
        assert torch.equal(wide[key], tensor.float() if tensor.is_floating_point() else tensor)
        assert wide[key].dtype == (torch.float32 if tensor.is_floating_point() else tensor.dtype)


def test_a_sharded_export_becomes_one_file(tmp_path: Path) -> None:
    state = small_state()
    sharded(state, tmp_path / "export")
    convert(tmp_path / "export", "", tmp_path / "one.safetensors")
    assert load_file(tmp_path / "one.safetensors").keys() == state.keys()


def test_an_existing_output_and_a_wrong_group_are_refused(tmp_path: Path) -> None:
    """The output may be the input itself."""
    path = saved(small_state(), tmp_path / "w.pt")
    content = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        convert(path, "", path)
    assert path.read_bytes() == content
    with pytest.raises(UsageError, match="its folder does not exist; make it"):
        convert(path, "", tmp_path / "missing" / "out.safetensors")
    with pytest.raises(UsageError, match="no group 'ema'"):
        convert(path, "ema", tmp_path / "out.safetensors")


def without_links(*_: Any) -> None:
    """`os.link` as on exFAT."""
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("link", [os.link, without_links])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[..., None]
) -> None:
    """Of two conversions into one file the second is told, as when it was there before."""
    monkeypatch.setattr(os, "link", link)
    output, write = tmp_path / "w.safetensors", convert_module._write_values

    def late(*arguments: Any) -> bool:
        output.write_bytes(b"another's")
        return write(*arguments)

    monkeypatch.setattr(convert_module, "_write_values", late)
    path = saved({"state_dict": small_state()}, tmp_path / "w.ckpt")
    with pytest.raises(UsageError, match="exists already"):
        convert(path, "", output)
    assert output.read_bytes() == b"another's"
    assert {file.name for file in tmp_path.iterdir()} == {"w.ckpt", "w.safetensors"}


def test_a_disk_without_hard_links_gets_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", without_links)
    path = saved({"state_dict": small_state()}, tmp_path / "w.ckpt")
    done = convert(path, "", tmp_path / "w.safetensors")
    assert file_sha256(done.path) == done.sha256
    assert {file.name for file in tmp_path.iterdir()} == {"w.ckpt", "w.safetensors"}


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """A dtype that cannot be written; a folder that cannot be made."""
    path = saved({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "w.pt")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError):
        convert(path, "", tmp_path / "out" / "w.safetensors")
    assert not list((tmp_path / "out").iterdir())
    good = saved(small_state(), tmp_path / "good.pt")
    with pytest.raises(StorageError):
        convert(good, "", good / "w.safetensors")


CONVERT_PROBE = """
import sys
from pathlib import Path
import torch
from evalsuite.models.checkpoints.convert import convert
def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
convert(Path(sys.argv[1]), "ema_denoiser", Path(sys.argv[2]))
sys.stdout.write(str(memory("VmHWM") - before))
"""


def test_memory_of_converting(tmp_path: Path) -> None:
    """Mapped pages of the one copy, and not a second one."""
    state = {f"{i}.weight": torch.rand(1000, 1000) for i in range(20)}
    both = {**prefixed("ema_denoiser.", state), **prefixed("denoiser.", state)}
    both = {key: tensor.clone() for key, tensor in both.items()}
    path = saved({"state_dict": both}, tmp_path / "w.ckpt")
    command = [sys.executable, "-c", CONVERT_PROBE, path, tmp_path / "w.safetensors"]
    environment = {**os.environ, "EVALSUITE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 1.3 * 80e6


PRESETS: dict[str, Any] = {"small": (FAMILY, NETWORK)}


def test_inspect_a_lightning_file(tmp_path: Path) -> None:
    state = small_state()
    path = saved(lightning(state, state), tmp_path / "w.ckpt")
    summary = inspect(path, PRESETS)
    assert summary.layout == "lightning"
    assert summary.num_bytes == path.stat().st_size
    assert summary.about["epoch"] == 319
    assert summary.has_optimizer
    assert summary.foreign == ()
    ema = next(group for group in summary.groups if group.is_ema)
    assert ema.name == "ema_denoiser"
    assert ema.num_tensors == len(state)
    assert ema.num_parameters == sum(tensor.numel() for tensor in state.values())
    assert ema.num_bytes == 4 * ema.num_parameters
    assert ema.dtypes == {"float32": len(state)}
    assert (ema.family, ema.presets, ema.presets_exact) == (FAMILY, ("small",), True)
    assert ema.network == NETWORK


@pytest.mark.parametrize(
    ("key", "tensor", "fault"),
    [
        ("final_layer.linear.bias", None, "missing final_layer.linear.bias"),
        ("extra.weight", torch.ones(2), "unexpected extra.weight"),
        ("final_layer.linear.bias", torch.ones(4), "final_layer.linear.bias is (4,), not (3,)"),
        (
            "final_layer.linear.bias",
            torch.ones(3, dtype=torch.int8),
            "final_layer.linear.bias is int8; float32, bfloat16 and float16 are loaded: such",
        ),
    ],
)
def test_inspect_says_fits_only_of_what_loads(
    tmp_path: Path, key: str, tensor: torch.Tensor | None, fault: str
) -> None:
    """One tensor is missing, left over, of another shape or dtype."""
    state = {k: t for k, t in small_state().items() if tensor is not None or k != key}
    state |= {key: tensor} if tensor is not None else {}
    group = inspect(saved(state, tmp_path / "w.pt"), PRESETS).groups[0]
    assert (group.presets, group.presets_exact) == (("small",), False)
    assert fault in "; ".join(group.faults)
    with pytest.raises(DataError):
        load_network(on_meta(), open_checkpoint(tmp_path / "w.pt"), "", FAMILY, "w.pt")


@pytest.mark.parametrize(
    ("key", "shape", "fault"),
    [
        ("final_layer.linear.bias", None, "missing final_layer.linear.bias"),
        ("blocks.0.attn.qkv.weight", None, "missing blocks.0.attn.qkv.weight"),
        ("s_embedder.proj.weight", (7, 7), "s_embedder.proj.weight is (7, 7), not (128, 48)"),
        ("s_embedder.proj.weight", None, "missing s_embedder.proj.weight"),
        ("y_embedder.embedding_table.weight", None, "missing y_embedder.embedding_table.weight"),
        (
            "y_embedder.embedding_table.weight",
            (7, 7, 7),
            "y_embedder.embedding_table.weight is (7, 7, 7), not (11, 128)",
        ),
    ],
)
def test_inspect_prints_why_a_preset_does_not_fit(
    tmp_path: Path, key: str, shape: tuple[int, ...] | None, fault: str
) -> None:
    """A real file of which one tensor is missing or has another shape; one may count layers."""
    preset = load_spec(ModelPreset, "pixnerd-digits")
    state = load_file(preset.path.parent / str(preset.weights.file))
    state.pop(key)
    if shape is not None:
        state[key] = torch.zeros(shape)
    save_file(state, tmp_path / "w.safetensors")
    text = run(inspect_checkpoint, tmp_path / "w.safetensors")
    assert f"is nearest to pixnerd-digits, and does not fit: {fault}" in text
    assert "fits pixnerd-digits" not in text


def test_the_summary_says_what_will_not_load(tmp_path: Path) -> None:
    """The file is written as it was asked."""
    state = {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2, dtype=torch.int8)}
    path = saved({**state, "c": state["a"] * 2}, tmp_path / "w.pt")
    text = run(convert_command, path, "--output", tmp_path / "out.safetensors")
    assert text.strip().endswith(
        "our models will refuse it: NaN or infinite values in a and 1 more; integer weights in b"
    )
    assert load_file(tmp_path / "out.safetensors").keys() == {"a", "b", "c"}


def peak_bytes() -> int:
    """The most memory that this process has had since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def test_inspect_reads_no_values(tmp_path: Path) -> None:
    """A full-size file whose values are not there: its memory stays that of its header."""
    shapes = full_size_shapes("pixeldit/keys_pixeldit_t2i_1300m")
    path = tmp_path / "w.safetensors"
    hollow({f"core.{key}": shape for key, shape in shapes.items()}, path, "BF16")
    peak_bytes()
    before = peak_bytes()
    group = inspect(path).groups[0]
    assert peak_bytes() - before < 500e6 < path.stat().st_size / 5
    assert group.num_parameters == 1_302_470_787
    assert group.family == "pixeldit-text"
    assert (group.name, group.is_ema, group.decay) == ("core", False, None)


def test_inspect_names_decays_and_unknown_families(tmp_path: Path) -> None:
    state = {"ema_0.9999.conv.weight": torch.ones(3, 3, dtype=torch.float16)}
    group = inspect(saved({"state_dict": state}, tmp_path / "w.pt"), PRESETS).groups[0]
    assert group.decay == 0.9999
    assert (group.family, group.presets) == (None, ())


def run(command: click.Command, *arguments: object) -> str:
    """What a command prints; its error if it raises one."""
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_commands_on_a_foreign_file(tmp_path: Path) -> None:
    """inspect says what stands in the way, convert takes the weights, inspect knows them again."""
    raw, first, second = small_state(1), small_state(2), small_state(3)
    path = saved(jit(raw, first, second), tmp_path / "checkpoint-last.pth")
    text = run(inspect_checkpoint, path)
    assert "weights model_ema1  EMA" in text
    assert "foreign argparse.Namespace" in text
    assert "epoch 600" in text
    output = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="several averages"):
        run(convert_command, path, "--output", output)
    text = run(convert_command, path, "--output", output, "--ema", "model_ema2")
    assert file_sha256(output) in text
    assert "looks like pixnerd-class: in_channels 3" in run(inspect_checkpoint, output)


def test_control_sequences_of_a_checkpoint_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """Neither from its names nor from an error line that repeats them; words stay as they are."""
    state = {"größe\x1b[32m.weight": torch.ones(2), "half\ud800": torch.ones(2)}
    content = {"state\x1b]0;title\x07": state, "aside\x1b[31m": [torch.ones(2)]}
    path = saved(content, tmp_path / "模型.pt")
    text = run(inspect_checkpoint, path)
    assert text.replace("\n", "").isprintable()
    assert "模型.pt" in text
    assert r"state\x1b]0;title\x07" in text
    assert r"aside\x1b[31m" in text
    assert (
        run(convert_command, path, "--output", tmp_path / "o", "--ema", "raw").strip().isprintable()
    )
    with pytest.raises(DataError) as caught:
        load_network(on_meta(), open_checkpoint(path), next(iter(content)), FAMILY, str(path))
    assert str(caught.value).isprintable()
    assert r"größe\x1b[32m.weight" in str(caught.value)


def test_inspect_as_json(tmp_path: Path) -> None:
    """The same facts, as plain data."""
    state = small_state()
    folder = exported(prefixed("ema_denoiser.", state), tmp_path / "export", {})
    run(inspect_checkpoint, folder, "--json", tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["layout"] == "safetensors"
    assert content["groups"][0]["name"] == "ema_denoiser"
    assert content["groups"][0]["num_tensors"] == len(state)
    path = saved(lightning(state, state), tmp_path / "w.ckpt")
    run(inspect_checkpoint, path, "--json", tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["other"]["diffusion_trainer"] == {"num_tensors": 1, "num_bytes": 64}


@pytest.mark.parametrize("command", [inspect_checkpoint, convert_command])
def test_help_has_two_examples(command: click.Command) -> None:
    _, _, after = run(command, "--help").partition("Examples:")
    assert after.count(f"evalsuite {command.name} ") == 2


def test_both_commands_refuse_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    path.write_bytes(b"")
    calls: list[Callable[[], str]] = [
        lambda: run(inspect_checkpoint, path),
        lambda: run(convert_command, path, "--output", tmp_path / "out"),
    ]
    for call in calls:
        with pytest.raises(EvalsuiteError, match="empty file"):
            call()


def test_a_safetensors_file_can_be_split_too(tmp_path: Path) -> None:
    """Of an export that holds its weights twice."""
    state = small_state()
    twice = {**prefixed("denoiser.", state), **prefixed("ema_denoiser.", state)}
    save_file({key: tensor.clone() for key, tensor in twice.items()}, tmp_path / "w.safetensors")
    run(convert_command, tmp_path / "w.safetensors", "--output", tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors").keys() == state.keys()
