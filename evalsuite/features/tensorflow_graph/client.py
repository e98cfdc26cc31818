"""The side of evalsuite: starts the TensorFlow process and asks it for features and manifolds.

Legend: N images or samples, M reference images, H, W, C, D pooled width, P spatial width, K
classes.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError, EnvironmentProblem
from evalsuite.features.base import FeatureBatch
from evalsuite.features.tensorflow_graph.adm_graph import ADM_TILE, Manifolds
from evalsuite.features.tensorflow_graph.protocol import (
    Field,
    Message,
    ProtocolError,
    receive,
    send,
)

BATCH_SIZE = 64
"""ADM's; the last batch of a set is short."""
_SERVER = "evalsuite.features.tensorflow_graph.server"
_PACKAGE_PARENT = Path(__file__).resolve().parents[3]
_ANSWERED = {"DataError": DataError, "EnvironmentProblem": EnvironmentProblem}
_END_WITHIN_S = 5.0
_TAIL_BYTES = 1 << 14
_CHATTER = re.compile(r"[IW]\d{4} |WARNING: All log messages|\d{4}-\d\d-\d\d .*: [IW] ")
"""Lines of TensorFlow's log that tell of no error."""


class TensorFlowGraph:
    """ADM's graph in a TensorFlow process that lives as long as the `with` block.

    One request at a time: it is not to be shared by threads. The process ends when the block does,
    and within a second when this process dies.
    """

    def __init__(
        self, path: Path, *, num_threads: int | None = None, use_gpu: bool = False
    ) -> None:
        """Remember what to start.

        Args:
            path: classify_image_graph_def.pb, or a graph of the same form; the caller has checked
                its digest.
            num_threads: for one operation on a CPU; None is all cores. It may change last bits.
            use_gpu: let TensorFlow use the GPUs, whose memory it then takes as it needs it.
        """
        self._path = path
        self._num_threads = num_threads
        self._use_gpu = use_gpu
        self._server: _Server | None = None
        self._versions: Mapping[str, Field] = {}

    def __enter__(self) -> Self:
        """Start the process and load the graph; 5 to 15 seconds for importing TensorFlow.

        Raises:
            EnvironmentProblem: TensorFlow is not installed, or the process died.
            DataError: the file is not ADM's graph.
        """
        self._server = _start()
        try:
            options = {"num_threads": self._num_threads or 0, "use_gpu": self._use_gpu}
            self._versions = self._ask(Message("start", options)).fields
            self.load(self._path)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def load(self, path: Path) -> None:
        """Take another graph; the one before it stays when this raises.

        Raises:
            DataError: the file cannot be read, or is not ADM's graph.
        """
        self._ask(Message("load", {"path": str(path.absolute())}))

    def features(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
        """Features of images, computed 64 at a time with a short last batch, as ADM does.

        Args:
            images_NHWC: uint8 RGB of one size, any number of them.

        Raises:
            DataError: the images are not RGB, or there is none.
            EnvironmentProblem: the process died.
        """
        if images_NHWC.dtype != np.uint8:
            raise ValueError(f"expected uint8 images, not {images_NHWC.dtype}")
        if images_NHWC.ndim != 4 or images_NHWC.shape[-1] != 3 or not images_NHWC.size:
            shape = " x ".join(str(length) for length in images_NHWC.shape)
            raise DataError(f"the Inception graph takes N x H x W x 3 (RGB) images, not {shape}")
        parts = [
            self._ask(Message("features", {}, {"images_NHWC": images_NHWC[at : at + BATCH_SIZE]}))
            for at in range(0, len(images_NHWC), BATCH_SIZE)
        ]
        names = ("pool_ND", "spatial_NP", "probabilities_NK")
        return FeatureBatch(*(np.concatenate([part.arrays[n] for part in parts]) for n in names))

    def probabilities(self, pool_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class probabilities [N, K] of stored pooled features, 512 rows at a time, as ADM does."""
        return self._ask(Message("probabilities", {}, {"pool_ND": pool_ND})).arrays[
            "probabilities_NK"
        ]

    def precision_recall(
        self,
        reference_MD: NDArray[np.float32],
        samples_ND: NDArray[np.float32],
        k: int = 3,
        tile: int = ADM_TILE,
    ) -> Manifolds:
        """Precision and recall in ADM's float16 arithmetic by TensorFlow itself.

        Args:
            reference_MD: pooled features of the reference images, float32.
            samples_ND: pooled features of the samples, float32.
            k: neighbours; ADM has 3.
            tile: rows and columns of distances computed at once; where one of a tile overflows
                float16 they are all computed in float32, so ADM's numbers need ADM's 10,000.

        Raises:
            DataError: fewer than k + 1 points in a set, other widths, or values not finite.
            ValueError: k or tile is not positive, or other dtypes.
            EnvironmentProblem: the process died.
        """
        if k < 1 or tile < 1:
            raise ValueError(f"k is {k} and tile is {tile}, both must be at least 1")
        for what, points in (("reference", reference_MD), ("samples", samples_ND)):
            if points.dtype != np.float32 or points.ndim != 2:
                raise ValueError(f"expected float32 features of the {what} in two dimensions")
            if len(points) <= k:
                raise DataError(f"precision and recall at k = {k} need {k + 1} points in each set")
            if not np.isfinite(points).all():
                raise DataError(f"the features of the {what} are not all finite")
        if reference_MD.shape[1] != samples_ND.shape[1]:
            raise DataError("the features of reference and samples have different widths")
        arrays = {"reference_MD": reference_MD, "samples_ND": samples_ND}
        answer = self._ask(Message("precision_recall", {"k": k, "tile": tile}, arrays))
        precision, recall = (float(answer.fields[n] or 0) for n in ("precision", "recall"))
        return Manifolds(
            precision, recall, answer.arrays["reference_radii_M"], answer.arrays["samples_radii_N"]
        )

    def versions(self) -> dict[str, Field]:
        """For provenance: tensorflow, numpy, onednn (None: unknown), device, num_threads, tf32."""
        return dict(self._versions)

    @property
    def pid(self) -> int:
        """The process, to measure it."""
        return self._running().process.pid

    def _running(self) -> "_Server":
        if self._server is None:
            raise ValueError("TensorFlow runs inside the `with` block only")
        return self._server

    def _ask(self, request: Message) -> Message:
        server = self._running()
        try:
            send(server.requests, request)
            answer = receive(server.answers)
        except ValueError as error:  # from send, which has written nothing then
            raise DataError(f"too much for one request to TensorFlow: {error}") from error
        except (OSError, ProtocolError) as error:
            raise self._lost(request.kind) from error
        except BaseException:  # such as Ctrl-C: the answer would be taken for the next one
            self._stop()
            raise
        if answer is None:
            raise self._lost(request.kind)
        if answer.kind == "error":
            raise _ANSWERED[str(answer.fields["class"])](str(answer.fields["text"]))
        return answer

    def _lost(self, doing: str) -> EnvironmentProblem:
        """The error for a process that answers no more: how it ended, and its last words."""
        server = self._running()
        code = _code_of(server.process)
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        hint = "; was there enough memory?" if code == -signal.SIGKILL else ""
        words = _last_words(server.stderr)
        self._stop()
        return EnvironmentProblem(
            f"the TensorFlow process ended during {doing!r} ({how}{hint})"
            + (f": {words}" if words else "")
        )

    def _stop(self) -> None:
        """End the process, which keeps nothing that must be saved."""
        server, self._server = self._server, None
        if server is None:
            return
        server.process.kill()
        server.process.wait()
        with contextlib.suppress(OSError):  # of a request that could not be sent
            server.requests.close()
        server.answers.close()
        server.stderr.close()


class TensorFlowExtractor:
    """`TensorFlowGraph` as an extractor of fixed batches."""

    def __init__(self, graph: TensorFlowGraph) -> None:
        """Take a graph whose `with` block has begun."""
        self.batch_size = BATCH_SIZE
        self._graph = graph

    def __call__(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
        """Features of exactly `batch_size` images; raises as `TensorFlowGraph.features`."""
        if len(images_NHWC) != self.batch_size:
            raise ValueError(f"expected {self.batch_size} images in a batch")
        return self._graph.features(images_NHWC)


class _Server(NamedTuple):
    """The process, its pipes, and a file with what it wrote to stderr."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: BufferedIOBase
    stderr: IO[bytes]


def _start() -> _Server:
    """The process, in a session of its own so that Ctrl-C reaches this one alone."""
    paths = [os.environ.get("PYTHONPATH"), str(_PACKAGE_PARENT)]
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    process = subprocess.Popen(  # noqa: S603 - this Python and a module of ours
        [sys.executable, "-P", "-m", _SERVER, str(os.getpid())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )
    assert process.stdin
    return _Server(process, process.stdin, cast(BufferedIOBase, process.stdout), stderr)


def _code_of(process: subprocess.Popen[bytes]) -> int:
    """How a process ended; it is killed when it has only stopped to make sense."""
    try:
        return process.wait(timeout=_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _last_words(stderr: IO[bytes]) -> str:
    """The last line that is no information of TensorFlow's own log."""
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _TAIL_BYTES))
    lines = stderr.read().decode("utf-8", "replace").splitlines()
    words = [line.strip() for line in lines if line.strip() and not _CHATTER.match(line)]
    return words[-1] if words else ""
