"""Watching a cluster from a thread of its own: who is there, what is free, does the head answer.

Measured on Ray 2.60: with the head gone, questions about the cluster wait for a minute and then the
driver's process is ended by Ray's C++ without any Python handler; so they are asked here, and the
driver looks at the last answer and its age.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evalsuite.errors import EnvironmentProblem, first_line
from evalsuite.runtime.apart import run_apart

T = TypeVar("T")

HEAD_GONE_S = 30.0
"""Without an answer for so long the head counts as gone, well before Ray ends the process."""
_EVERY_S = 2.0
_ANSWER_S = 60.0
_OF_HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head's node alone."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive."""

    node_id: str
    host: str
    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float

    def room(self, cpus: float, gpus: float, *, free: bool) -> int:
        """Workers of a given size that the machine holds, or still holds."""
        have_cpus, have_gpus = (self.free_cpus, self.free_gpus) if free else (self.cpus, self.gpus)
        fits = [have / need for have, need in ((have_cpus, cpus), (have_gpus, gpus)) if need > 0]
        return int(min(fits) + 1e-6) if fits else 0


class ClusterWatch:
    """The nodes of the connected cluster, asked every two seconds within the block."""

    def __init__(self) -> None:
        self._over, self._has_answered = threading.Event(), threading.Event()
        self.nodes: tuple[Node, ...] = ()
        self._home = ""
        self._answered_s = self._looked_s = time.monotonic()
        self._in_vain_s = 0.0
        self._thread = threading.Thread(target=self._run, name="cluster-watch", daemon=True)

    def __enter__(self) -> "ClusterWatch":
        """Wait for the first answer.

        Raises:
            EnvironmentProblem: the head does not give it.
        """
        self._home = ray.get_runtime_context().get_node_id()
        self._thread.start()
        try:
            while not self._has_answered.wait(0.2):
                self.check_head()
        except BaseException:
            self._over.set()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def check_head(self) -> None:
        """Raise EnvironmentProblem when the head is gone.

        From another thread than the one that works: Ray's calls wait for such a head, and then end
        the process.
        """
        if self.seconds_in_vain() > HEAD_GONE_S:
            raise EnvironmentProblem(
                f"Ray's head has not answered for {HEAD_GONE_S:.0f} s: what was committed stays;"
                " when the cluster is back, run the same command again to go on"
            )

    @property
    def home_is_gone(self) -> bool:
        """Whether this process's own node manager has left, whoever else is there.

        Without it nothing new starts, and what runs elsewhere is not heard.
        """
        return self._home not in {node.node_id for node in self.nodes}

    @property
    def silent_s(self) -> float:
        """Seconds since the head answered."""
        return time.monotonic() - self._answered_s

    def seconds_in_vain(self) -> float:
        """Seconds without an answer in which this process ran, by its own questions to this.

        A process that was stopped, or a machine that slept, counts a second for all that time.
        """
        now = time.monotonic()
        passed, self._looked_s = min(now - self._looked_s, 1.0), now
        self._in_vain_s = self._in_vain_s + passed if self.silent_s > _EVERY_S + 1 else 0.0
        return self._in_vain_s

    def _run(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # it is asked again, and its silence is seen
                nodes = current_nodes()
                self.nodes, self._answered_s = nodes, time.monotonic()
                self._has_answered.set()
            if self._over.wait(_EVERY_S):
                return


def asked_of_ray(question: Callable[[], T]) -> T:
    """The answer to a question that a head which is gone would hold for ever.

    Raises:
        EnvironmentProblem: the head is gone, or Ray says no.
    """
    try:
        with ClusterWatch() as watch:
            return run_apart(question, watch.check_head)
    except RayError as error:
        raise EnvironmentProblem(f"Ray failed: {first_line(error)}") from error


def current_nodes() -> tuple[Node, ...]:
    """The nodes that are alive, with what is free on each."""
    from ray._private import state

    free: dict[str, dict[str, float]] = state.available_resources_per_node()
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            total, left = node["Resources"], free.get(node["NodeID"], {})
            found.append(
                Node(
                    node["NodeID"],
                    node["NodeManagerHostname"],
                    total.get("CPU", 0.0),
                    total.get("GPU", 0.0),
                    left.get("CPU", 0.0),
                    left.get("GPU", 0.0),
                )
            )
    return tuple(found)


def has_autoscaler() -> bool:
    """Whether the cluster can grow: an autoscaler that knows types of nodes looks after it.

    Ray's monitor runs beside every head; without a configuration each machine is a type of its
    own, `node_<id>` (Ray 2.60, both versions of the autoscaler), unless KubeRay has named it.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    with contextlib.suppress(Exception):  # another Ray keeps it elsewhere: then it cannot be asked
        if is_autoscaler_v2(fetch_from_server=True):
            return _grows_by_the_second_version()
        return _are_named(_types_by_the_first_version())
    return False


def is_configured(monitors: Sequence[Sequence[str]], *, has_reported: bool) -> bool:
    """Whether an autoscaler of the second version has types of nodes to start.

    KubeRay names the nodes of every cluster, also of one that cannot grow, and the monitor reports
    in the same way with a configuration and without: what it was started with tells.

    Args:
        monitors: command lines of the head's monitors; none where the autoscaler stands beside
            the head, as KubeRay starts it.
        has_reported: some autoscaler has told the head its state.
    """
    if not monitors:
        return has_reported
    return any(word.startswith("--autoscaling-config=") for line in monitors for word in line)


def monitors_here(gcs_address: str) -> list[list[str]]:
    """Command lines of Ray's monitors on this machine that belong to a head, by its port."""
    port = gcs_address.rpartition(":")[2]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = path.read_bytes().decode(errors="replace").split("\0")
            heads = [word for word in words if word.startswith("--gcs-address=")]
            if any(Path(word).name == "monitor.py" for word in words[:4]) and any(
                head.endswith(f":{port}") for head in heads
            ):
                found.append(words)
    return found


def _grows_by_the_second_version() -> bool:
    """Ray up starts this version since 2.50; KubeRay for every cluster that Ray 2.60 runs."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    address = ray.get_runtime_context().gcs_address
    status = get_cluster_status(address)
    kinds = {str(one.ray_node_type_name) for one in (*status.active_nodes, *status.idle_nodes)}
    if not _are_named(kinds):
        return False
    has_reported = int(status.stats.autoscaler_version or 0) > 0
    return is_configured(_monitors_of_head(address), has_reported=has_reported)


def _monitors_of_head(gcs_address: str) -> list[list[str]]:
    """As the head's machine, or its container, lists them."""
    (head,) = [n for n in ray.nodes() if n["Alive"] and _OF_HEAD in n["Resources"]]
    there = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    asked = ray.remote(num_cpus=0, max_retries=0)(monitors_here)
    answer = asked.options(scheduling_strategy=there).remote(gcs_address)
    found: list[list[str]] = ray.get(answer, timeout=_ANSWER_S)
    return found


def _are_named(kinds: set[str]) -> bool:
    return any(not kind.startswith("node_") for kind in kinds)


def _types_by_the_first_version() -> set[str]:
    """As its monitor has left it with the head."""
    from ray.experimental import internal_kv

    status = internal_kv._internal_kv_get(b"__autoscaling_status")
    report = json.loads(status)["autoscaler_report"] if status else {}
    active, all_of = report.get("active_nodes") or {}, report.get("node_type_mapping") or {}
    return {str(kind) for kind in (*active, *all_of.values())}


def ask_autoscaler(bundles: list[dict[str, Any]]) -> None:
    """Ask for a cluster that holds `bundles` at once; an empty list withdraws the request."""
    from ray.autoscaler import sdk

    try:
        sdk.request_resources(bundles=bundles)
    except Exception as error:  # noqa: BLE001 - it only means that the cluster does not grow
        logging.getLogger(__name__).info("the autoscaler was not asked: %s", error)
