"""How many workers to keep, of which size: the cluster's room, as it grows and shrinks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from evalsuite.artifacts.storage import Place
from evalsuite.errors import EnvironmentProblem, UsageError, first_line
from evalsuite.pipeline.outside import Witness
from evalsuite.runtime.cluster import Cluster, check_shared_directory
from evalsuite.runtime.hanging import Limits
from evalsuite.runtime.placement import has_process
from evalsuite.runtime.watch import (
    Node,
    ask_autoscaler,
    asked_of_ray,
    current_nodes,
    has_autoscaler,
)
from evalsuite.runtime.workers import WorkerSize, environment_of

MOST_REQUESTED = 1024
"""Workers that the autoscaler is asked for at most; its own limits come before."""
_REQUEST_EVERY_S = 10.0
_PROBE_S = 300.0


@dataclass
class Team:
    """The workers of one invocation.

    Attributes:
        kind: `cuda` or `cpu`.
        size: what one worker takes.
        asked: a fixed number; None follows the cluster.
        is_private: the cluster is this process's own, on this machine.
        grows: an autoscaler may be asked for more machines.
    """

    kind: str
    size: WorkerSize
    asked: int | None
    is_private: bool
    grows: bool = False
    _requested: int = field(default=0, init=False)
    _requested_s: float = field(default=float("-inf"), init=False)

    def target(self, nodes: tuple[Node, ...], num_placed: int, num_open: int) -> int:
        """Workers to keep alive now, at least one.

        Args:
            nodes: machines that are alive.
            num_placed: own workers that hold their place already.
            num_open: shards that are not done.
        """
        holds = sum(node.room(*self.size, free=False) for node in nodes)
        if self.asked is None:
            holds = min(holds, num_placed + sum(node.room(*self.size, free=True) for node in nodes))
        return max(1, min(self.asked or holds, holds, num_open))

    def waiting(self, nodes: Sequence[Node]) -> str:
        """What a cluster that grows is waited for, in words; "" where it has room for a worker."""
        if not self.grows or any(node.room(*self.size, free=True) for node in nodes):
            return ""
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in self.size.bundle.items())
        return f"waiting for a machine with {wanted}, which Ray's autoscaler was asked for"

    def request(self, num_open: int) -> None:
        """Tell the autoscaler, if there is one, what would be of use; 0 withdraws it.

        It is told again and again: a cluster has one such wish, and another run's end withdraws it.
        """
        wanted = min(self.asked or num_open, num_open, MOST_REQUESTED) if self.grows else 0
        if wanted:
            due = time.monotonic() - self._requested_s > _REQUEST_EVERY_S
        else:
            due = bool(self._requested)
        if due:
            self._requested, self._requested_s = wanted, time.monotonic()
            ask_autoscaler([self.size.bundle] * wanted)


class Site(NamedTuple):
    """What an invocation finds before it begins."""

    nodes: tuple[Node, ...]
    team: Team


def look_around(
    cluster: Cluster,
    asked: int | None,
    device: str,
    gpus_per_worker: float = 1.0,
    *,
    shared: Place | None = None,
    remedy: str = "give an --output",
) -> Site:
    """The cluster's nodes, all of which see the directory `shared`, and the team that they make.

    Raises:
        EnvironmentProblem: a directory or a team that cannot be, or a head that is gone.
        UsageError: as `gather_team`.
    """

    def look() -> Site:
        if shared is not None:
            check_shared_directory(shared, remedy)
        nodes = current_nodes()
        return Site(nodes, gather_team(cluster, nodes, asked, device, gpus_per_worker))

    return asked_of_ray(look)


def gather_team(
    cluster: Cluster,
    nodes: tuple[Node, ...],
    asked: int | None,
    device: str,
    gpus_per_worker: float = 1.0,
) -> Team:
    """A worker for each GPU, or each core where there is none.

    Args:
        cluster: that is connected.
        nodes: its machines.
        asked: `--num-workers`; None is `auto`.
        device: `auto`, `cuda` or `cpu`.
        gpus_per_worker: below 1, several workers share a GPU.

    Raises:
        EnvironmentProblem: GPUs were asked and there are none, or more workers than ever fit.
        UsageError: a share of a GPU that Ray cannot place, or `auto` where it cannot be told yet
            whether there will be GPUs.
    """
    if gpus_per_worker > 1 or gpus_per_worker <= 0:
        raise UsageError(
            f"--gpus-per-worker {gpus_per_worker:g}: a worker uses one GPU or a part of one:"
            " give a number above 0 and at most 1"
        )
    is_private = cluster.address == "local"
    grows = not is_private and has_autoscaler()
    if device == "cuda" and not cluster.num_gpus and not grows:
        raise EnvironmentProblem(f"--device cuda: Ray at {cluster.address} has no GPU")
    if device == "auto" and not cluster.num_gpus and grows:
        raise UsageError(
            f"Ray at {cluster.address} has no GPU now but may grow: say --device cuda to wait for"
            " machines with GPUs, or --device cpu"
        )
    on_gpu = device == "cuda" or (device != "cpu" and cluster.num_gpus > 0)
    size = WorkerSize(gpus_per_worker if on_gpu else 1, gpus_per_worker if on_gpu else 0)
    room = sum(node.room(*size, free=False) for node in nodes)
    noun = "GPUs" if on_gpu else "CPUs"
    if not room and not grows:
        raise EnvironmentProblem(f"no machine of Ray at {cluster.address} has free {noun}")
    if asked is not None and asked > room and not grows:
        of_size = f" for workers of {gpus_per_worker:g} each" if gpus_per_worker < 1 else ""
        many = cluster.num_gpus if on_gpu else cluster.num_cpus
        raise EnvironmentProblem(
            f"--num-workers {asked}: Ray at {cluster.address} has {many} {noun}{of_size}"
        )
    return Team("cuda" if on_gpu else "cpu", size, asked, is_private, grows)


def numerics_of_workers(team: Team, notice: Callable[[str], None]) -> dict[str, Any]:
    """What decides bits where a worker of this team would run.

    A cluster that grows is waited for, as long as its machines take to come; who has a process
    there has to answer.

    Args:
        team: whose kind of worker is asked for.
        notice: is told now and then what is waited for.

    Raises:
        EnvironmentProblem: nobody answers.
    """
    num_cpus, num_gpus = team.size
    actor = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0)(Witness)
    there = actor.options(runtime_env={"env_vars": environment_of(on_gpu=num_gpus > 0)})

    def ask() -> dict[str, Any]:
        text = team.waiting(current_nodes())  # before this very question takes its place
        witness = there.remote()
        answer = witness.numerics.remote(team.kind)
        while text and not has_process(witness):
            notice(text)
            if ray.wait([answer], timeout=_PROBE_S)[0]:
                break
            text = team.waiting(current_nodes())
        limit_s = Limits().start_s if team.grows else _PROBE_S
        try:
            found: dict[str, Any] = ray.get(answer, timeout=limit_s)
        except RayError as error:
            raise EnvironmentProblem(
                f"no worker of the cluster has answered: {first_line(error)}; look at `ray status`"
            ) from error
        finally:
            ray.kill(witness)  # its place is wanted
        return found

    return asked_of_ray(ask)
