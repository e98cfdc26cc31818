"""What ended an attempt: a loss that is tried again, or an error that would come again."""

from typing import NamedTuple

from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from evalsuite.errors import EvalsuiteError

NOT_BEGUN = (RuntimeEnvSetupError, ActorUnschedulableError)
"""Ray's words for a process that a node could not start: it may be that node alone."""
LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError, *NOT_BEGUN)
"""Ray's words for a worker that is no more, or cannot be reached."""

_LONGEST_REASON = 300
_OF_NODE = "look at that node's disk and at runtime_env_setup-*.log in its folder of Ray's logs"


class Loss(NamedTuple):
    """How a worker was lost."""

    reason: str
    departed: bool = False
    """Its machine went away: preempted, drained or dead. Not held against the shard."""
    remedy: str = "look at the memory, lower --num-workers"
    """Where it comes again and again."""


def loss_of(error: BaseException) -> Loss:
    """How Ray accounts for a worker that is gone, in a few words."""
    if isinstance(error, NOT_BEGUN):
        why = " ".join((error.error_message or "").split())
        reason = f"its node could not start its process: {why[:_LONGEST_REASON]}"
        return Loss(reason, remedy=_OF_NODE)
    text = str(error).lower()
    if isinstance(error, OutOfMemoryError) or "out_of_memory" in text or "low on memory" in text:
        return Loss("killed by the memory monitor: out of memory")
    if getattr(error, "preempted", False) or "preempt" in text or "draining" in text:
        return Loss("its node was preempted", departed=True)
    if isinstance(error, NodeDiedError) or "node has died" in text or "owner node" in text:
        return Loss("its node died", departed=True)
    if isinstance(error, ActorUnavailableError):
        return Loss("its node cannot be reached")
    return Loss("its process died: killed, or out of memory?")


def may_pass(error: BaseException) -> bool:
    """Whether a fault that a worker raised may not come again in a fresh process."""
    return isinstance(error, EvalsuiteError) and error.may_pass


def cause_of(error: RayTaskError) -> BaseException:
    """Our own error that a worker raised, or the bug with its remote traceback.

    Ray's error stays the context of our own one, for the log.
    """
    cause: BaseException | None = error.cause
    if isinstance(cause, EvalsuiteError):
        cause.__context__ = error
        return cause
    bug: BaseException = error
    return bug
