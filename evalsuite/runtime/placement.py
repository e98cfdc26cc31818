"""A plain worker class as Ray's actor, where it stands, and the end of its process there.

The workers' own processes import this module: it loads nothing that they do not need.
"""

import contextlib
import functools
import os
import signal
from pathlib import Path
from typing import Any

import ray


@functools.cache
def actor_class(plain: type, groups: tuple[str, ...]) -> Any:  # noqa: ANN401 - Ray's ActorClass
    """The plain class for Ray, which also tells the node that it runs on, and its process.

    One for all workers: Ray sends each class to the cluster once, and keeps it there.

    Args:
        plain: the class.
        groups: names of its threads, one each.
    """

    def load(self: Any) -> dict[str, Any]:  # noqa: ANN401 - an instance of `plain`
        return with_place(plain.load(self))  # type: ignore[attr-defined]

    def retarget(self: Any, job: Any) -> dict[str, Any]:  # noqa: ANN401 - likewise, and its job
        return with_place(plain.retarget(self, job))  # type: ignore[attr-defined]

    placed = type(plain.__name__, (plain,), {"load": load, "retarget": retarget})
    return ray.remote(concurrency_groups=dict.fromkeys(groups, 1))(placed)


def with_place(about: dict[str, Any]) -> dict[str, Any]:
    """What a worker says of itself, with the node that it runs on and when its process began."""
    return {
        **about,
        "node_id": ray.get_runtime_context().get_node_id(),
        "began": _start_of(os.getpid()),
    }


def has_process(actor: Any) -> bool:  # noqa: ANN401 - a handle of Ray's
    """Whether Ray has given an actor its place, and a process there, be it answering or not.

    While an actor waits for its place, Ray 2.60 names no process for it.
    """
    from ray._private import state

    return bool(state.actors(actor._actor_id.hex()).get("Pid"))


def kill_process(pid: int, began: str | None = None) -> None:
    """SIGKILL to a process of this machine, if it is still the one that began then."""
    if began is None or _start_of(pid) == began:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _start_of(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: its number may be given again."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]
