"""The TensorFlow process: messages, batches, tiles, and how it ends."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import environment, is_running, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from tensorflow_kit import NARROWEST, images_of, running_graph

from evalsuite.errors import DataError, EnvironmentProblem
from evalsuite.features.aligned import concatenate, extract_all
from evalsuite.features.tensorflow_graph import protocol
from evalsuite.features.tensorflow_graph.client import TensorFlowExtractor, TensorFlowGraph
from evalsuite.features.tensorflow_graph.protocol import Message, ProtocolError, receive, send

RECIPE = {"seed": 5, "n": 70, "size": 64, "variant": "real"}
SHAPES = arrays_of.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
ARRAYS = st.one_of(arrays_of.arrays(np.uint8, SHAPES), arrays_of.arrays(np.float32, SHAPES))


def frame_of(message: Message) -> bytes:
    stream = io.BytesIO()
    send(stream, message)
    return stream.getvalue()


@settings(max_examples=30, deadline=None)
@given(
    st.text(),
    st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.text())),
    st.dictionaries(st.text(), ARRAYS, max_size=3),
)
def test_a_message_arrives_as_it_was_sent(kind: str, fields: dict, arrays: dict) -> None:
    stream = io.BytesIO(2 * frame_of(Message(kind, fields, arrays)))
    for _ in range(2):
        arrived = receive(stream)
        assert arrived is not None
        assert (arrived.kind, arrived.fields) == (kind, fields)
        assert list(arrived.arrays) == list(arrays)
        for name, array in arrays.items():
            assert arrived.arrays[name].dtype == array.dtype
            assert arrived.arrays[name].shape == array.shape
            assert arrived.arrays[name].tobytes() == array.tobytes()
    assert receive(stream) is None


def test_arrays_need_not_lie_in_order() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1].T
    arrived = receive(io.BytesIO(frame_of(Message("a", {}, {"x": array}))))
    assert arrived is not None
    assert np.array_equal(arrived.arrays["x"], array)


def test_a_message_that_is_cut_anywhere_is_refused() -> None:
    frame = frame_of(Message("a", {"b": 1}, {"x": np.ones(3, dtype=np.float32)}))
    for length in range(1, len(frame)):
        with pytest.raises(ProtocolError):
            receive(io.BytesIO(frame[:length]))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff",
        b'{"kind": "a", "fields": {}}',
        b'{"kind": "a", "fields": {}, "arrays": [{"name": "x", "dtype": "object", "shape": [1]}]}',
        b'{"kind": "a", "fields": {}, "arrays": [{"name": "x", "dtype": "uint8", "shape": [-1]}]}',
        b'{"kind": "a", "fields": {}, "arrays": [{"name": "x", "dtype": "uint8", "shape": [1e9]}]}',
        b'{"kind": "a", "fields": {}, "arrays": [{"name": "x", "dtype": "uint8",'
        b' "shape": [4294967297]}]}',
    ],
)
def test_a_header_that_is_no_message_is_refused(header: bytes) -> None:
    prefix = protocol.MAGIC + len(header).to_bytes(4, "little")
    with pytest.raises(ProtocolError):
        receive(io.BytesIO(prefix + header + bytes(100)))


def test_other_bytes_and_long_headers_are_refused() -> None:
    with pytest.raises(ProtocolError):
        receive(io.BytesIO(b"I0000 00:00 a line of some log\n"))
    with pytest.raises(ProtocolError):
        receive(io.BytesIO(protocol.MAGIC + b"\xff\xff\xff\x7f"))


def test_arrays_of_other_types_or_too_large_are_not_sent() -> None:
    stream = io.BytesIO()
    too_large = np.broadcast_to(np.zeros(1, dtype=np.uint8), (1 << 32) + 1)
    for array in (np.zeros(2), np.zeros(2, dtype=object), too_large):
        with pytest.raises(ValueError):
            send(stream, Message("a", {}, {"x": array}))
    assert stream.getvalue() == b""


def fake_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a module before TensorFlow that does something else when it is imported."""
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "raise ModuleNotFoundError('none', name='tensorflow')",
            ["TensorFlow is not installed: pip install 'evalsuite[tensorflow]'"],
        ),
        (
            "raise ImportError('libsomething.so: cannot open\\nmore')",
            ["TensorFlow cannot be imported: libsomething.so: cannot open"],
        ),
        (
            "import os, sys\nprint('LLVM ERROR: registered more than once', file=sys.stderr)\n"
            "print('I0000 00:00:00.0 1 port.cc:153] on', file=sys.stderr, flush=True)\nos.abort()",
            ["SIGABRT", "LLVM ERROR: registered more than once"],
        ),
        (
            "import os, signal\nprint('on stdout', flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
            ["SIGKILL", "was there enough memory?", "on stdout"],
        ),
        ("raise RuntimeError('a bug')", ["exit code 1", "RuntimeError: a bug"]),
    ],
    ids=["missing", "broken", "aborts", "killed", "raises"],
)
def test_a_process_that_cannot_start_is_one_line(
    code: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tensorflow(tmp_path, monkeypatch, code)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "numpy.py").write_text("raise RuntimeError('not to be imported')")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(EnvironmentProblem) as caught, TensorFlowGraph(tmp_path / "graph.pb"):
        pass
    assert "\n" not in str(caught.value)
    for text in expected:
        assert text in str(caught.value)


CLIENT = """
import sys
from pathlib import Path
from evalsuite.features.tensorflow_graph.client import TensorFlowGraph
with TensorFlowGraph(Path("graph.pb")):
    pass
"""
BUSY = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nos.rename('pid', 'busy')\n"


def test_no_process_is_left_when_its_client_is_killed(tmp_path: Path) -> None:
    """SIGKILL gives the client no chance to say goodbye, and the other process is busy."""
    (tmp_path / "tensorflow.py").write_text(BUSY + "while True: time.sleep(0.01)")
    env = environment(private=True)
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    client = subprocess.Popen([sys.executable, "-c", CLIENT], cwd=tmp_path, env=env)
    try:
        wait_for((tmp_path / "busy").is_file, 30)
        server = int((tmp_path / "busy").read_text())
        os.kill(server, 0)  # it lives
    finally:
        client.kill()
        client.wait()
    wait_for(lambda: not is_running(server), 10)


def test_an_interrupted_request_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer must not be taken for that of the next request."""
    fake_tensorflow(tmp_path, monkeypatch, BUSY + "while True: time.sleep(0.01)")
    monkeypatch.chdir(tmp_path)

    def interrupt(number: int, frame: object) -> None:
        if Path("busy").is_file():
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        with pytest.raises(KeyboardInterrupt), TensorFlowGraph(tmp_path / "graph.pb"):
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not is_running(int((tmp_path / "busy").read_text()))


@pytest.mark.tf
def test_images_beside_an_image_do_not_change_its_features() -> None:
    """Neither do padding, the slot in the batch and the length of a short last batch."""
    graph = running_graph(NARROWEST)
    images = images_of(RECIPE)
    whole = graph.features(images)
    aligned = concatenate(extract_all(TensorFlowExtractor(graph), [images[:10], images[10:]]))
    padded = np.zeros((64, 64, 64, 3), dtype=np.uint8)
    padded[40:43] = images[:3]
    among_zeros = TensorFlowExtractor(graph)(padded)
    for part, other, few in zip(whole, aligned, among_zeros, strict=True):
        assert np.array_equal(part, other)
        assert np.array_equal(part[:3], few[40:43])


@pytest.mark.tf
def test_probabilities_of_stored_features_are_those_of_the_pass() -> None:
    """ADM computes them 512 rows at a time from stored features, we with each batch."""
    graph = running_graph(NARROWEST)
    features = graph.features(images_of(RECIPE, count=66))
    assert np.array_equal(graph.probabilities(features.pool_ND), features.probabilities_NK)
    assert features.probabilities_NK.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.tf
def test_shapes_and_types_of_features() -> None:
    features = running_graph(NARROWEST).features(images_of(RECIPE, count=2))
    assert [part.shape for part in features] == [
        (2, 2048 // NARROWEST),
        (2, 17 * 17 * 7),
        (2, 1008),
    ]
    assert {part.dtype for part in features} == {np.dtype(np.float32)}


@pytest.mark.tf
def test_versions_say_what_computed() -> None:
    versions = running_graph(NARROWEST).versions()
    assert str(versions["tensorflow"]).startswith("2.")
    assert versions["numpy"] == np.__version__
    assert versions["onednn"] in {True, False}
    assert (versions["device"], versions["num_threads"], versions["tf32"]) == ("cpu", 1, False)


@pytest.mark.tf
@pytest.mark.parametrize(
    "images", [np.zeros((3, 8, 8, 4)), np.zeros((3, 8, 8)), np.zeros((0, 8, 8, 3))], ids=str
)
def test_what_is_no_image_is_refused(images: np.ndarray) -> None:
    with pytest.raises(DataError, match="RGB"):
        running_graph(NARROWEST).features(images.astype(np.uint8))


@pytest.mark.tf
def test_points_that_cannot_be_compared_are_refused() -> None:
    graph = running_graph(NARROWEST)
    points = np.eye(6, dtype=np.float32)
    with pytest.raises(DataError, match="need 4 points"):
        graph.precision_recall(points[:3], points)
    with pytest.raises(DataError, match="widths"):
        graph.precision_recall(points[:, :5], points)
    with pytest.raises(DataError, match="finite"):
        graph.precision_recall(points, points * np.float32(np.nan))
    with pytest.raises(ValueError, match="float32"):
        graph.precision_recall(points, points.astype(np.float16))
    with pytest.raises(ValueError, match="k is 0"):
        graph.precision_recall(points, points, k=0)


@pytest.mark.tf
def test_a_set_with_itself_has_precision_and_recall_of_one() -> None:
    points = np.random.default_rng(3).normal(size=(50, 9)).astype(np.float32)
    found = running_graph(NARROWEST).precision_recall(points, points)
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert (found.reference_radii_M > 0).all()


@pytest.mark.tf
def test_float16_is_given_up_tile_by_tile() -> None:
    """A distance of 2.00024 is 2 in float16, so inside a radius of 2, but not in float32.

    Sample 0 lies in the first tile. Its twin lies in the second one, where another sample's
    distance overflows float16.
    """
    reference_MD = np.array([[0, 0, 0], [-1, -1, 0]], dtype=np.float32)
    samples_ND = np.full((13, 3), 20, dtype=np.float32)
    samples_ND[[0, 11]] = 1, 1, 2**-6
    samples_ND[12] = 300, 0, 0
    graph = running_graph(NARROWEST)
    found = graph.precision_recall(reference_MD, samples_ND, k=1, tile=10)
    assert found.reference_radii_M.tolist() == [2, 2]
    assert found.precision == 1 / 13
    assert found.samples_radii_N[0] == 0
    assert graph.precision_recall(reference_MD, samples_ND, k=1).precision == 0


@pytest.mark.tf
@pytest.mark.parametrize("tile", [1, 4, 29, 100])
def test_radii_over_tiles_are_those_of_whole_rows(tile: int) -> None:
    """Small whole numbers, which float16 holds exactly; numpy sorts whole rows."""
    random = np.random.default_rng(9)
    reference_MD, samples_ND = (
        random.integers(0, 6, size=(count, 4)).astype(np.float32) for count in (37, 29)
    )
    found = running_graph(NARROWEST).precision_recall(reference_MD, samples_ND, k=2, tile=tile)
    for points, radii in (
        (reference_MD, found.reference_radii_M),
        (samples_ND, found.samples_radii_N),
    ):
        distances = np.square(points[:, None] - points[None]).sum(axis=2)
        assert np.array_equal(radii, np.sort(distances, axis=1)[:, 2])
    cross_MN = np.square(reference_MD[:, None] - samples_ND[None]).sum(axis=2)
    inside = (cross_MN <= found.reference_radii_M[:, None]).any(axis=0)
    covered = (cross_MN <= found.samples_radii_N[None]).any(axis=1)
    assert (found.precision, found.recall) == (inside.mean(), covered.mean())


@pytest.mark.tf
def test_a_file_that_is_not_the_graph_is_refused(tmp_path: Path) -> None:
    graph = running_graph(NARROWEST)
    unknown = b"\x0a\x06pool_3\x12\x08NoSuchOp"
    for content, text in (
        (b"\x80\x05 no graph", "not a TensorFlow graph"),
        (b"", "pool_3:0"),
        (b"\x0a" + bytes([len(unknown)]) + unknown, "NoSuchOp"),
    ):
        path = tmp_path / "graph.pb"
        path.write_bytes(content)
        with pytest.raises(DataError, match=text):
            graph.load(path)
    with pytest.raises(DataError, match="cannot read"):
        graph.load(tmp_path / "absent.pb")
    assert len(graph.features(images_of(RECIPE, count=1)).pool_ND) == 1
