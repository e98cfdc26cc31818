"""The TensorFlow process: it loads ADM's graph and answers requests until its input ends.

Started by `client` as `python -m evalsuite.features.tensorflow_graph.server PARENT_PID`. Neither
torch nor a room that imports it is imported here, and TensorFlow only once a client has asked.
Whatever libraries print goes to stderr, so that nothing stands between the messages on stdout.
"""

import importlib
import os
import signal
import sys
import threading
import time
from io import BufferedIOBase
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from evalsuite.errors import DataError, EnvironmentProblem, EvalsuiteError
from evalsuite.features.tensorflow_graph.adm_graph import AdmGraph, AdmManifolds
from evalsuite.features.tensorflow_graph.protocol import Field, Message, receive, send

_LOOK_EVERY_S = 0.5


def main() -> None:
    """Answer requests from stdin on stdout; end with the client, whatever ends it."""
    _end_with(int(sys.argv[1]))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(requests, answers)


def _serve(requests: BufferedIOBase, answers: IO[bytes]) -> None:
    backend: Backend | None = None
    while (request := receive(requests)) is not None:
        try:
            if backend is None:
                backend = Backend(request.fields)
                answer = Message("versions", backend.versions())
            else:
                answer = backend.answer(request)
        except EvalsuiteError as error:
            answer = Message("error", {"class": type(error).__name__, "text": str(error)})
        del request  # a request's arrays are not kept while the next ones are read
        send(answers, answer)


class Backend:
    """TensorFlow, one session of it, and the graph once it is loaded."""

    def __init__(self, options: Any) -> None:  # noqa: ANN401 - the fields of a message
        """Import TensorFlow as the first request asks: num_threads (0: all), use_gpu.

        Raises:
            EnvironmentProblem: TensorFlow is not installed, or cannot be imported.
        """
        if not options["use_gpu"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        self._tf = tf = _import_tensorflow()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        num_threads = int(options["num_threads"])
        config = tf.compat.v1.ConfigProto(
            allow_soft_placement=True,  # the graph's JPEG decoder exists for CPUs alone
            intra_op_parallelism_threads=num_threads,
            inter_op_parallelism_threads=num_threads,
        )
        config.gpu_options.allow_growth = True
        self._num_threads = num_threads or len(os.sched_getaffinity(0))
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        self._manifolds = AdmManifolds(tf, self._session, self._num_threads)
        self._graph: AdmGraph | None = None

    def versions(self) -> dict[str, Field]:
        """What may change the last bits: versions, oneDNN, devices, threads."""
        devices = [device.device_type for device in self._session.list_devices()]
        return {
            "tensorflow": self._tf.__version__,
            "numpy": importlib.import_module("numpy").__version__,
            "onednn": _uses_onednn(),
            "device": "gpu" if "GPU" in devices else "cpu",
            "num_threads": self._num_threads,
            "tf32": False,
        }

    def answer(self, request: Message) -> Message:
        """Do what a message asks.

        Raises:
            DataError: the graph or the arrays cannot be used.
            EnvironmentProblem: not enough memory, or a device failed.
        """
        errors = self._tf.errors
        try:
            return self._answer(request)
        except (errors.InvalidArgumentError, errors.NotFoundError) as error:
            what = "graph" if request.kind == "load" else "arrays"
            raise DataError(f"TensorFlow refused the {what}: {_first(error)}") from error
        except (errors.ResourceExhaustedError, MemoryError) as error:
            raise EnvironmentProblem(f"TensorFlow ran out of memory: {_first(error)}") from error
        except errors.OpError as error:
            raise EnvironmentProblem(f"TensorFlow failed: {_first(error)}") from error

    def _answer(self, request: Message) -> Message:
        if request.kind == "load":
            self._graph = AdmGraph(self._tf, self._session, Path(str(request.fields["path"])))
            return Message("loaded")
        if request.kind == "precision_recall":
            found = self._manifolds.precision_recall(
                request.arrays["reference_MD"],
                request.arrays["samples_ND"],
                int(request.fields["k"] or 0),
                int(request.fields["tile"] or 0),
            )
            radii = {
                name: getattr(found, name) for name in ("reference_radii_M", "samples_radii_N")
            }
            return Message(
                "manifolds", {"precision": found.precision, "recall": found.recall}, radii
            )
        if self._graph is None or request.kind not in {"features", "probabilities"}:
            raise ValueError(f"request {request.kind!r} is unknown, or comes before load")
        if request.kind == "features":
            return Message(
                "features", {}, self._graph.features(request.arrays["images_NHWC"])._asdict()
            )
        probabilities_NK = self._graph.probabilities(request.arrays["pool_ND"])
        return Message("probabilities", {}, {"probabilities_NK": probabilities_NK})


def _import_tensorflow() -> ModuleType:
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise EnvironmentProblem(f"TensorFlow cannot be imported: {error}") from error
        raise EnvironmentProblem(
            "TensorFlow is not installed: pip install 'evalsuite[tensorflow]'"
        ) from error
    except ImportError as error:
        raise EnvironmentProblem(f"TensorFlow cannot be imported: {_first(error)}") from error


def _uses_onednn() -> bool | None:
    """Whether oneDNN computes convolutions on CPUs; None where this build does not say."""
    try:
        port = importlib.import_module("tensorflow.python.util._pywrap_util_port")
        return bool(port.IsMklEnabled())
    except (ImportError, AttributeError):
        return None


def _first(error: BaseException) -> str:
    """The first line of an error that may be pages long."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _end_with(parent: int) -> None:
    """Kill this process soon after its parent is gone, also while it computes.

    The end of stdin says the same, but only between requests, and not while another child of the
    parent has inherited the pipe.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
