"""Inception's weights as files: both containers, and damaged, foreign or hostile ones."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.evaluator_kit import Graph, equal_weights

from evalsuite.errors import DataError
from evalsuite.features.inception.graph_file import MAX_NODES, Node, read_nodes
from evalsuite.features.inception.weights import read_weights

FLOAT, INT32 = 1, 3


def varint(number: int) -> bytes:
    """Protobuf's variable-length number."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def field(number: int, body: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def tensor(shape: tuple[int, ...], values: bytes, dtype: int = FLOAT) -> bytes:
    """A TensorProto; `values` are its encoded fields."""
    sizes = b"".join(field(2, varint(1 << 3) + varint(size)) for size in shape)
    return varint(1 << 3) + varint(dtype) + field(2, sizes) + values


def constant(name: str, value: bytes) -> bytes:
    """A graph with one constant, whose TensorProto is given."""
    attribute = field(5, field(1, b"value") + field(2, field(8, value)))
    return field(1, field(1, name.encode()) + field(2, b"Const") + attribute)


def nodes_of(content: bytes, folder: Path) -> list[Node]:
    """The nodes that a file with this content has."""
    path = folder / "graph.pb"
    path.write_bytes(content)
    return list(read_nodes(path))


def changed(
    path: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object], **options: bool
) -> Path:
    """A copy of a state dict, changed."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, folder / "changed.pth", **options)
    return folder / "changed.pth"


@pytest.mark.parametrize(
    "values",
    [
        field(4, struct.pack("<3f", 1, 2, 3)),
        field(5, struct.pack("<3f", 1, 2, 3)),
        b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in (1, 2, 3)),
    ],
    ids=["tensor_content", "packed", "one by one"],
)
def test_values_are_read_however_they_are_stored(values: bytes, tmp_path: Path) -> None:
    (node,) = nodes_of(constant("a/b", tensor((3,), values)), tmp_path)
    assert (node.name, node.op) == ("a/b", "Const")
    assert node.tensor().tolist() == [1, 2, 3]


def test_a_single_value_stands_for_all(tmp_path: Path) -> None:
    (node,) = nodes_of(constant("a", tensor((2, 3), field(5, struct.pack("<f", 7)))), tmp_path)
    assert np.array_equal(node.tensor(), np.full((2, 3), 7, np.float32))


def test_numbers_and_flags_of_the_kits_graph(narrow_graph: Graph) -> None:
    norms = [n for n in read_nodes(narrow_graph.pb) if n.op == "BatchNormWithGlobalNormalization"]
    assert len(norms) == 94
    for norm in norms:
        assert np.float32(norm.number("variance_epsilon")) == np.float32(0.001)
        assert not norm.flag("scale_after_normalization")
        assert norm.number("absent") is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (tensor((3,), field(4, bytes(12)), dtype=INT32), "dtype 3"),
        (tensor((3,), field(4, bytes(8))), "8 bytes of values"),
        (tensor((3,), field(5, bytes(8))), "8 bytes of values"),
        (tensor((3,), b""), "0 bytes of values"),
        (tensor((2**40, 2**10), field(5, bytes(4))), "too large"),
        (tensor((2**62,), field(4, bytes(4))), "too large"),
        (tensor((2**64 - 1,), field(4, bytes(4))), "unknown size"),
        (tensor((1,) * 9, field(4, bytes(4))), "9 dimensions"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused_without_allocating(
    value: bytes, why: str, tmp_path: Path
) -> None:
    (node,) = nodes_of(constant("weights", value), tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"constant 'weights'.*{why}"):
            node.tensor()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot"),
        (b"\x0a" + b"\x80" * 1_000_000, "does not end"),
        (b"\x80" * 11, "does not end|cannot read"),
        (varint(1 << 3 | 2) + varint(2**60), "claims 1152921504606846976 bytes"),
        (b"\x02\x00", "number 0"),
        (b"\x0f", "wire type 7"),
        (b"not a graph at all", "damaged|wire type|claims"),
        (field(1, b"") * (MAX_NODES + 1), f"more than {MAX_NODES} nodes"),
    ],
    ids=["empty", "varint", "tags", "length", "zero", "wire", "text", "nodes"],
)
def test_what_is_no_graph_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pb"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("container", ["pb", "torch_fidelity", "pytorch_fid"])
def test_a_truncated_file_is_refused(container: str, narrow_graph: Graph, tmp_path: Path) -> None:
    """Wherever it ends."""
    content = getattr(narrow_graph, container).read_bytes()
    for share in (0.001, 0.3, 0.9, 0.9999):
        path = tmp_path / f"cut-{share}"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match=path.name):
            read_weights(path)


def test_missing_unknown_and_double_constants_are_named(
    narrow_graph: Graph, tmp_path: Path
) -> None:
    content, path = narrow_graph.pb.read_bytes(), tmp_path / "changed.pb"
    path.write_bytes(
        content.replace(
            b"mixed_4/tower/conv_1/conv2d_params", b"mixed_4/tower/conv_9/conv2d_params"
        )
    )
    with pytest.raises(DataError, match=r"missing mixed_4/tower/conv_1/.*unknown mixed_4/"):
        read_weights(path)
    path.write_bytes(content + constant("conv/conv2d_params", tensor((1,), field(4, bytes(4)))))
    with pytest.raises(DataError, match="'conv/conv2d_params' twice"):
        read_weights(path)
    path.write_bytes(constant("softmax/weights", tensor((1,), field(4, bytes(4)))))
    with pytest.raises(DataError, match=r"missing .* and 468 more"):
        read_weights(path)


def test_another_epsilon_is_another_graph(narrow_graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "epsilon.pb"
    old, new = struct.pack("<f", 0.001), struct.pack("<f", 1e-5)
    path.write_bytes(narrow_graph.pb.read_bytes().replace(b"\x25" + old, b"\x25" + new))
    with pytest.raises(DataError, match="variance_epsilon"):
        read_weights(path)


@pytest.mark.parametrize("container", ["torch_fidelity", "pytorch_fid"])
def test_the_old_format_of_torch_holds_the_same(
    container: str, narrow_graph: Graph, tmp_path: Path
) -> None:
    """The published files are of that format; counters of batches do not matter."""
    old = changed(
        getattr(narrow_graph, container),
        tmp_path,
        lambda state: None,
        _use_new_zipfile_serialization=False,
    )
    assert old.read_bytes()[:1] == b"\x80"
    assert equal_weights(read_weights(old), read_weights(narrow_graph.pb))


def _drop(state: dict[str, torch.Tensor]) -> None:
    del state["Mixed_7c.branch_pool.bn.bias"]


def _add(state: dict[str, torch.Tensor]) -> None:
    state["AuxLogits.fc.weight"] = torch.zeros(2)


def _reshape(state: dict[str, torch.Tensor]) -> None:
    state["Mixed_6b.branch7x7_2.conv.weight"] = state["Mixed_6b.branch7x7_2.conv.weight"].mT


def _halve(state: dict[str, torch.Tensor]) -> None:
    state["fc.weight"] = state["fc.weight"].half()


def _thousand(state: dict[str, torch.Tensor]) -> None:
    state["fc.weight"] = state["fc.weight"][:1000]


def _poison(state: dict[str, torch.Tensor]) -> None:
    state["Conv2d_1a_3x3.conv.weight"][0, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_drop, "missing Mixed_7c.branch_pool.bn.bias$"),
        (_add, "unknown AuxLogits.fc.weight$"),
        (
            _reshape,
            r"Mixed_6b.branch7x7_2.conv.weight \[16, 16, 7, 1\] instead of \[16, 16, 1, 7\]",
        ),
        (_halve, "'fc.weight' is no float32 tensor"),
        (_thousand, "'fc.weight' maps 256 to 1000, not 2048 features to 1008 classes"),
        (_poison, "NaN or infinity: Conv2d_1a_3x3.conv.weight"),
    ],
)
def test_another_state_dict_is_refused(
    change: Callable[[dict[str, torch.Tensor]], object],
    why: str,
    narrow_graph: Graph,
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match=why):
        read_weights(changed(narrow_graph.torch_fidelity, tmp_path, change))


class Hostile:
    """Runs a command when it is unpickled freely."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch hostile-code-ran",)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_state_dict_is_not_run(
    new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Hostile()}, "evil.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(DataError, match=r"evil\.pth"):
        read_weights(Path("evil.pth"))
    assert not Path("hostile-code-ran").exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {1: torch.zeros(2)}, {"a": "text"}])
def test_what_is_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(DataError, match=r"x\.pth"):
        read_weights(tmp_path / "x.pth")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pb"):
        read_weights(tmp_path / "none.pb")
