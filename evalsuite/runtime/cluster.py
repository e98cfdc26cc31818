"""Connecting to Ray: a private local cluster by default, or the one at an address.

As measured on Ray 2.60, `ray.init` replaces the SIGTERM handler, so ours are set after it.
"""

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from evalsuite.artifacts.storage import Place
from evalsuite.errors import EnvironmentProblem, EvalsuiteError, Interrupted, first_line
from evalsuite.runtime.address import check_address
from evalsuite.runtime.leftovers import below, children, end
from evalsuite.runtime.machine import default_cpu_workers
from evalsuite.runtime.signals import stop_code

OBJECT_STORE_BYTES = 80 * 2**20
"""Pixels and features never pass the object store, so Ray's minimum is enough."""
_NONE_BEFOREHAND = {"prestart_worker_first_driver": False}
"""Ray would start a process for each core that is never ours: those have variables of their own."""
JOB_ADDRESS = "EVALSUITE_ADDRESS"
"""Set in a submitted job: where its `evaluate` finds workers, should its samples want any."""
LEAVING_S = 10.0
_PREFIX = "evalsuite-"
_LOCK = "owner.lock"
_LONGEST_TEMPORARY = 12  # Ray's sockets below it must stay under 107 bytes


@dataclass(frozen=True)
class Cluster:
    """A connected Ray cluster."""

    address: str
    num_cpus: int
    num_gpus: int
    num_nodes: int


@contextlib.contextmanager
def connected(
    address: str | None,
    num_workers: int | None,
    *,
    use_gpu: bool,
    notice: Callable[[str], None] | None = None,
) -> Iterator[Cluster]:
    """Connect to Ray and disconnect at the end.

    Args:
        address: None or `local` for a private cluster of this process; `auto` or `host:port`.
        num_workers: CPU workers of a private cluster; one for each core when None.
        use_gpu: whether a private cluster may offer GPUs.
        notice: is told in one line that the answer of a head is waited for.

    Raises:
        UsageError: an address of another kind.
        EnvironmentProblem: nothing listens there, or Ray cannot start.
    """
    check_auth_mode()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray  # noqa: F401 - imported first here, without its warnings
    from evalsuite.runtime.watch import asked_of_ray

    if address in {None, "local"}:
        with _quiet(), _private_cluster(num_workers, use_gpu=use_gpu):
            yield asked_of_ray(lambda: _describe("local"))
        return
    found = check_address(str(address), notice)
    with _quiet(), _joined(found):
        yield asked_of_ray(lambda: _describe(str(address)))


def check_auth_mode() -> None:
    """Refuse to work without Ray's token authentication.

    Raises:
        EnvironmentProblem: it is switched off.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        raise EnvironmentProblem(
            "RAY_AUTH_MODE=disabled would let everyone who reaches Ray's ports run code here:"
            " unset it, or set it to token"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray off stdout, which is for results.

    It prints its account of each lost worker there, whatever `log_to_driver` says; the driver says
    in one line what was lost, and nothing of ours writes to stdout while Ray is connected.
    """
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Around `ray.init`: no signal that ends this process is lost.

    Ray replaces the handler of SIGTERM by one that only exits; ours is given back. And what a
    handler raises is lost where Python only reports it, as in callbacks after a fork: so numbers of
    signals are noted besides, and those that had no effect are handled at the end.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {int(number): signal.getsignal(number) for number in numbers}
    reader, writer = socket.socketpair()
    with reader, writer:
        for end_of_pair in (reader, writer):
            end_of_pair.setblocking(False)
        replaced = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        except SystemExit as error:
            handler = before[signal.SIGTERM]
            if callable(handler):
                handler(signal.SIGTERM, None)  # it knows the command and its exit code
            raise Interrupted(
                "stopped by SIGTERM while Ray was starting: run the same command again to go on",
                stop_code(signal.SIGTERM),
            ) from error
        finally:
            signal.set_wakeup_fd(replaced)
            for number, handler in before.items():
                signal.signal(number, handler)
        with contextlib.suppress(BlockingIOError):
            for number in reader.recv(4096):
                handler = before.get(number)
                if callable(handler):
                    handler(number, None)


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray
    from ray.exceptions import RayError

    try:
        with own_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        if "Version mismatch" in str(error):
            raise EnvironmentProblem(
                f"the cluster at {address} has other versions: {_versions_in(error)}: install the"
                " same Ray and Python on both"
            ) from error
        raise EnvironmentProblem(
            f"cannot connect to Ray at {address}: {first_line(error)}: is it Ray's own port, and"
            " is RAY_AUTH_TOKEN the cluster's?"
        ) from error
    try:
        yield
    finally:
        _leave()


def _leave() -> None:
    """`ray.shutdown`, which may wait for a head that is gone; then the process ends without it."""
    import ray

    leaving = threading.Thread(target=ray.shutdown, name="leaving", daemon=True)
    leaving.start()
    leaving.join(LEAVING_S)
    _state.stuck = leaving.is_alive()


class _State:
    stuck = False


_state = _State()


def is_stuck() -> bool:
    """Whether Ray did not let this process go, which then must end without Ray's farewell."""
    return _state.stuck


def _versions_in(error: BaseException) -> str:
    """Both sides' versions, from Ray's account of several lines."""
    found = re.findall(r"(Ray|Python): (\S+)", str(error))
    words = [f"{name} {version}" for name, version in found]
    if len(words) != 4:
        return " ".join(str(error).split())
    return f"{' and '.join(words[:2])} there, {' and '.join(words[2:])} here"


def check_shared_directory(root: Place, remedy: str = "give an --output") -> None:
    """Every node must see a directory: they read a nonce that is written there.

    An object store is not asked: every worker opens the run there before it computes.

    Args:
        root: the run directory, or another that workers write to.
        remedy: how another one is given.

    Raises:
        EnvironmentProblem: nodes that do not; the line names them.
    """
    if not isinstance(root, Path):
        return
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    nonce, path = uuid.uuid4().hex, root.absolute() / f".nonce-{uuid.uuid4().hex}"
    path.write_text(nonce, encoding="ascii")
    try:
        reader = ray.remote(num_cpus=0, max_retries=0)(_read_text)
        answers = {
            node["NodeManagerAddress"]: reader.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(path))
            for node in nodes
        }
        blind = sorted(
            host for host, answer in answers.items() if ray.get(answer, timeout=60) != nonce
        )
    except RayError as error:
        raise EnvironmentProblem(
            f"a node of the cluster does not answer: {first_line(error)}"
        ) from error
    finally:
        path.unlink(missing_ok=True)
    if blind:
        raise EnvironmentProblem(
            f"{root} is not shared: nodes {', '.join(blind)} cannot read it;"
            f" {remedy} on a file system that every node mounts"
        )


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    """A short directory for Ray's sockets, locked while we live and removed at the end."""
    base = tempfile.gettempdir()
    parent = Path(base if len(base) <= _LONGEST_TEMPORARY else "/tmp")  # noqa: S108
    _remove_stale(parent)
    try:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    except OSError as error:
        raise EnvironmentProblem(f"cannot make a temporary directory: {error}") from error
    try:
        with Path(folder, _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _private_cluster(num_workers: int | None, *, use_gpu: bool) -> Iterator[None]:
    import ray

    # Ray turns its token authentication on for a local cluster and caches the token for the life of
    # the process; a token in the environment keeps it from writing one below HOME.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    others = children()
    with _temporary_folder() as folder:
        try:
            try:
                with own_signals():
                    ray.init(
                        address="local",
                        num_cpus=num_workers or default_cpu_workers(),
                        num_gpus=None if use_gpu else 0,
                        include_dashboard=False,
                        object_store_memory=OBJECT_STORE_BYTES,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        _temp_dir=folder,
                        _node_ip_address="127.0.0.1",
                        _system_config=dict(_NONE_BEFOREHAND),  # Ray adds to it
                    )
            except EvalsuiteError:
                raise
            except Exception as error:  # Ray raises bare ones when its start takes too long
                raise EnvironmentProblem(
                    f"Ray did not start: {first_line(error).rstrip('.')}: look at the load, the"
                    f" memory and the space below {folder}, then run the same command again"
                ) from error
            yield
        finally:
            started = below(children() - others)
            _leave()
            end(started)


def _remove_stale(parent: Path) -> None:
    """Remove temporary directories of our own processes that were killed."""
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open("ab") as held:
            if lock.stat().st_uid == os.getuid():
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its owner lives
                shutil.rmtree(lock.parent, ignore_errors=True)


def _describe(address: str) -> Cluster:
    import ray

    resources = ray.cluster_resources()
    alive = sum(bool(node["Alive"]) for node in ray.nodes())
    return Cluster(address, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), alive)


def _read_text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return None
