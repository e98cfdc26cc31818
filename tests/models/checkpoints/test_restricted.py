"""The restricted reader rebuilds tensors as torch does, and runs nothing that a pickle asks for."""

import collections
import io
import os
import pickle
import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import lightning, saved, small_state
from torch import Tensor, nn

from evalsuite.errors import DataError
from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.models.checkpoints.restricted import Inert, StoredTensor, read_restricted


def with_pickle(source: Path, target: Path, program: bytes) -> Path:
    """A copy of a torch.save file with another pickle in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            new.writestr(entry, program if is_pickle else old.read(entry))
    return target


def tensors_in(tree: Any) -> list[Tensor]:
    assert isinstance(tree, dict)
    return [leaf.tensor for leaf in tree.values() if isinstance(leaf, StoredTensor)]


def test_tensors_of_every_kind_equal_torchs(tmp_path: Path) -> None:
    """Types, views with offsets and strides, shared storages, scalars, empty ones, parameters."""
    base = torch.arange(24, dtype=torch.float32)
    dtypes = [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
        *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
        *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
    ]
    content: dict[str, Tensor] = {str(d): base.to(d) for d in dtypes}
    content |= {"view": base[3:9], "strided": base.view(4, 6).t(), "step": base[::5]}
    content |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 7),
        "expanded": base[:1].expand(9),
    }
    content["parameter"] = nn.Parameter(torch.ones(3))
    tree = read_restricted(saved(content, tmp_path / "w.pt")).tree
    assert isinstance(tree, dict)
    for key, tensor in content.items():
        found = tree[key].tensor
        assert found.dtype == tensor.dtype
        assert found.stride() == tensor.stride() or 0 in tensor.shape
        assert torch.equal(bits(found), bits(tensor.detach()))


def bits(tensor: Tensor) -> Tensor:
    """Torch compares no values of the newer types."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def test_tensors_with_attributes_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    state = {"w": torch.arange(6.0), "p": nn.Parameter(torch.ones(2)), "view": torch.ones(3, 2).t()}
    for tensor in state.values():
        tensor.tag = "x"  # type: ignore[attr-defined]
    path = saved({"model": state, "kinds": [torch.uint16, torch.Tensor]}, tmp_path / "w.pt")
    ours, torchs = open_checkpoint(path, restricted=True), open_checkpoint(path)
    assert (ours.groups, ours.foreign) == (torchs.groups, ())
    assert all(torch.equal(ours.tensor("model", k), state[k]) for k in state)


class Packed(Tensor):
    """A tensor whose values mean something else."""


def test_tensors_of_unknown_kinds_are_told_only_among_the_weights(tmp_path: Path) -> None:
    """Of a class, and of a storage, that is not known."""
    packed = torch.ones(4).as_subclass(Packed)
    with warnings.catch_warnings(action="ignore"):
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    for tensor, told in ((packed, "Packed"), (quantised, "_rebuild_qtensor")):
        path = saved({"state_dict": {"w": torch.ones(2)}, "callbacks": [tensor]}, tmp_path / "w.pt")
        assert set(open_checkpoint(path, restricted=True).groups) == {""}
        path = saved({"state_dict": {"w": tensor}}, tmp_path / "w.pt")
        with pytest.raises(DataError, match=f"w is no tensor but what .*{told} would make"):
            open_checkpoint(path, restricted=True)


def test_a_network_and_an_optimiser_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    state = small_state()
    path = saved(lightning(state, state), tmp_path / "w.ckpt")
    ours, torchs = open_checkpoint(path, restricted=True), open_checkpoint(path)
    assert ours.groups == torchs.groups
    assert ours.other == torchs.other
    assert ours.about == torchs.about
    assert ours.foreign == ()


def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


class Payload:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduction = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduction


def payloads(target: Path) -> dict[str, Any]:
    """Calls that would make a file."""
    code = f"open({str(target)!r}, 'w').close()"
    touch = f"touch {target}"
    stored = io.BytesIO()
    torch.save(Payload(os.system, touch), stored, _use_new_zipfile_serialization=False)
    return {
        "os.system": Payload(os.system, touch),
        "eval": Payload(eval, code),
        "exec": Payload(exec, code),
        "popen": Payload(subprocess.Popen, ["touch", str(target)]),
        "getattr": Payload(getattr, Payload(__import__, "os"), "system"),
        "path": Payload(Path.touch, target),
        "apply": Payload(map, os.system, [touch]),
        "torch.load": Payload(torch.load, io.BytesIO(stored.getvalue())),
        "storage": Payload(torch.storage._load_from_bytes, stored.getvalue()),
        "hub": Payload(torch.hub.load, str(target.parent), "main"),
        "state": Payload(collections.OrderedDict, state={"x": Payload(os.system, touch)}),
        "key": {Payload(os.system, touch): 1},
    }


@pytest.mark.parametrize("name", payloads(Path("x")))
def test_malicious_pickles_do_nothing(tmp_path: Path, name: str) -> None:
    """Neither reader runs the call; the restricted one still gives the weights."""
    weights = torch.arange(6.0)
    content = {"state_dict": {"w": weights}, "evil": payloads(marker(tmp_path))[name]}
    path = saved(content, tmp_path / "w.ckpt")
    with pytest.raises(DataError, match="no code of a checkpoint is run"):
        open_checkpoint(path)
    checkpoint = open_checkpoint(path, restricted=True)
    assert torch.equal(checkpoint.tensor("", "w"), weights)
    assert checkpoint.foreign
    assert not marker(tmp_path).exists()


def test_the_payloads_are_real(tmp_path: Path) -> None:
    """The same calls do make the file when a plain unpickler is trusted with them."""
    pickle.loads(pickle.dumps(Payload(os.system, f"touch {marker(tmp_path)}")))
    assert marker(tmp_path).exists()


ATTACKS = {
    # what a class or function of ours would be changed by, were it in reach
    "change our function": b"ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__Nsb.",
    "change our dict": b"ccollections\nOrderedDict\nN}X\x06\x00\x00\x00__eq__Ns\x86b.",
    "change the placeholder": b"cos\nsystem\nN}X\x08\x00\x00\x00__call__Ns\x86b.",
    "dotted name": b"\x80\x04\x8c\x05torch\x8c\x0e_utils.os.syst\x93\x8c\x01x\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "unknown reference": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "stack underflow": b"\x80\x02R.",
    "cut": b"\x80\x02}q\x00X\xff\x00\x00\x00abc",
    "not a type": b"\x80\x02K\x01)\x81.",
    "a call of a tensor": b"\x80\x02K\x01K\x02\x85R.",
}


INERT = {"dotted name"}


@pytest.mark.parametrize("name", ATTACKS)
def test_hand_made_pickles_end_in_a_line_or_in_nothing(tmp_path: Path, name: str) -> None:
    """Whatever they do, the next file is read as before: nothing of ours was changed."""
    source = saved({"w": torch.ones(2)}, tmp_path / "source.pt")
    path = with_pickle(source, tmp_path / "w.pt", ATTACKS[name])
    if name in INERT:
        assert isinstance(read_restricted(path).tree, Inert)
    else:
        with pytest.raises(DataError, match=r"w\.pt, even restricted"):
            read_restricted(path)
    again = read_restricted(source).tree
    assert torch.equal(tensors_in(again)[0], torch.ones(2))


def test_names_are_never_resolved(tmp_path: Path) -> None:
    """A module that would run code when it is imported is not imported."""
    (tmp_path / "evil_module_of_a_checkpoint.py").write_text(
        f"open({str(marker(tmp_path))!r}, 'w')"
    )
    source = saved({"w": torch.ones(2)}, tmp_path / "source.pt")
    program = b"cevil_module_of_a_checkpoint\nrun\n)R."
    path = with_pickle(source, tmp_path / "w.pt", program)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        found = read_restricted(path)
    assert isinstance(found.tree, Inert)
    assert found.foreign == ("evil_module_of_a_checkpoint.run",)
    assert not marker(tmp_path).exists()


def rebuilt(size: Any, stride: Any, offset: Any = 0, num_values: Any = 6, key: str = "0") -> bytes:
    """The pickle of one tensor over a storage."""
    stream = io.BytesIO()

    class Writer(pickle._Pickler):
        def persistent_id(self, value: Any) -> Any:
            return (
                ("storage", torch.FloatStorage, key, "cpu", num_values) if value is Writer else None
            )

    tensor = Payload(torch._utils._rebuild_tensor_v2, Writer, offset, size, stride, False, None)
    Writer(stream, protocol=2).dump({"w": tensor})
    return stream.getvalue()


DAMAGED = {
    "reference": b"\x80\x02}X\x01\x00\x00\x00aK\x05Qs.",
    "mark": b"\x80\x02(.",
    "state of a number": b"\x80\x02K\x01K\x02b.",
    "item of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "memo": b"\x80\x02h\x09.",
    "text": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "nothing": b"",
    "protocol": b"\x80\x04K\x01K\x02a.",
}


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_end_in_a_line(tmp_path: Path, name: str, restricted: bool) -> None:
    """In both readers, whatever torch raises or warns of."""
    source = saved({"w": torch.ones(2)}, tmp_path / "source.pt")
    path = with_pickle(source, tmp_path / "w.pt", DAMAGED[name])
    with pytest.raises(DataError, match=r"cannot read weights .*w\.pt"):
        open_checkpoint(path, restricted=restricted)


def test_attributes_cannot_take_the_place_of_methods(tmp_path: Path) -> None:
    """torch sets the attributes that a pickle gives to a dict or a tensor."""
    leftovers = collections.OrderedDict(w=torch.ones(3))
    leftovers.values = 5  # type: ignore[method-assign,assignment]
    weight = torch.ones(2)
    weight.detach = 5  # type: ignore[method-assign,assignment]
    path = saved({"state_dict": {"w": weight}, "rest": [leftovers]}, tmp_path / "w.pt")
    assert torch.load(path, weights_only=True)["rest"][0].values == 5
    checkpoint = open_checkpoint(path)
    assert torch.equal(checkpoint.tensor("", "w"), torch.ones(2))
    assert checkpoint.other == {"rest": (1, 12)}


def test_torchs_warnings_are_not_the_users(tmp_path: Path) -> None:
    """It warns of a protocol that is not its own; the file is read all the same."""
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(2)}, path, pickle_protocol=3)
    with pytest.warns(UserWarning, match="protocol 3"):
        torch.load(path, weights_only=True)
    assert torch.equal(open_checkpoint(path).tensor("", "w"), torch.ones(2))


OUT_OF_BOUNDS = {
    "size": rebuilt((7,), (1,)),
    "stride": rebuilt((2,), (6,)),
    "offset": rebuilt((6,), (1,), offset=1),
    "negative offset": rebuilt((2,), (1,), offset=-4),
    "negative stride": rebuilt((2,), (-1,), offset=3),
    "negative size": rebuilt((-1,), (1,)),
    "huge": rebuilt((2**62, 2**62), (1, 1)),
    "lengths": rebuilt((2, 2), (1,)),
    "no numbers": rebuilt(("a",), (1,)),
    "no tuple": rebuilt([2], [1]),
    "truth": rebuilt((True,), (1,)),
    "storage larger than its record": rebuilt((7,), (1,), num_values=7),
    "negative storage": rebuilt((1,), (1,), num_values=-1),
    "missing storage": rebuilt((1,), (1,), key="9"),
    "path": rebuilt((1,), (1,), key="../data.pkl"),
}


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_no_tensor_reaches_behind_its_storage(tmp_path: Path, name: str) -> None:
    source = saved({"w": torch.arange(6.0)}, tmp_path / "source.pt")
    path = with_pickle(source, tmp_path / "w.pt", OUT_OF_BOUNDS[name])
    with pytest.raises(DataError, match="even restricted"):
        read_restricted(path)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("size", [(7,), (2**20, 2**20), (2**40, 2**40)])
def test_no_tensor_is_larger_than_its_storage(
    tmp_path: Path, size: tuple[int, ...], restricted: bool
) -> None:
    """Also where the number of its values overflows what torch counts."""
    source = saved({"w": torch.arange(6.0)}, tmp_path / "source.pt")
    path = with_pickle(source, tmp_path / "w.pt", rebuilt(size, (0,) * len(size)))
    with pytest.raises(DataError, match=r"w\.pt"):
        open_checkpoint(path, restricted=restricted)


def test_the_hand_made_tensor_is_right_within_bounds(tmp_path: Path) -> None:
    source = saved({"w": torch.arange(6.0)}, tmp_path / "source.pt")
    path = with_pickle(source, tmp_path / "w.pt", rebuilt((2, 2), (3, 1), offset=1))
    assert tensors_in(read_restricted(path).tree)[0].tolist() == [[1, 2], [4, 5]]


def test_compressed_and_big_endian_storages_are_refused(tmp_path: Path) -> None:
    source = saved({"w": torch.zeros(100)}, tmp_path / "source.pt")
    for changed in ("compressed", "byteorder"):
        path = tmp_path / f"{changed}.pt"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                data = b"big" if entry.filename.endswith("byteorder") else old.read(entry)
                data = old.read(entry) if changed == "compressed" else data
                kind = zipfile.ZIP_DEFLATED if changed == "compressed" else zipfile.ZIP_STORED
                new.writestr(entry.filename, data, compress_type=kind)
        with pytest.raises(DataError, match="even restricted"):
            read_restricted(path)


@pytest.mark.parametrize("place", ["state_dict", "model"])
def test_an_entry_that_only_code_could_make_is_named_by_both_readers(
    tmp_path: Path, place: str
) -> None:
    """`convert` is not advised where it would refuse, and nothing is left out silently."""
    state = {"w": torch.ones(2), "bias": Payload(os.system, f"touch {marker(tmp_path)}")}
    path = saved({place: state}, tmp_path / "w.ckpt")
    for restricted in (False, True):
        with pytest.raises(DataError, match=r"bias is no tensor but what .*system would make") as e:
            open_checkpoint(path, restricted=restricted)
        assert "evalsuite convert" not in str(e.value)
        assert "remove that entry" in str(e.value)
    assert not marker(tmp_path).exists()


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("key", ["blocks.0.bias", "pos_embed"])
def test_no_entry_of_a_flat_state_dict_is_dropped(
    tmp_path: Path, key: str, restricted: bool
) -> None:
    """What a program notes beside its weights is; an array is a weight under any name."""
    state = {"blocks.0.weight": torch.ones(2), "epoch": 3, "decay": None, "optimizer": {"lr": [1]}}
    opened = open_checkpoint(saved(state, tmp_path / "w.pt"), restricted=restricted)
    assert set(opened.groups[""]) == {"blocks.0.weight"}
    values = [np.ones(2), *([None, [1.0], nn.Linear(1, 1)] if "." in key else [])]
    for value in values:
        path = saved({**state, key: value}, tmp_path / "w.pt")
        with pytest.raises(DataError, match=rf"{key} is no tensor but .*remove that entry"):
            open_checkpoint(path, restricted=restricted)


def test_a_whole_object_is_named(tmp_path: Path) -> None:
    path = saved(Payload(os.system, "true"), tmp_path / "w.ckpt")
    with pytest.raises(DataError, match=r"no state dict, but what \w+\.system would make"):
        open_checkpoint(path)
