"""What invocations of a run cost: GPU-hours, energy, money, from what each left behind.

An invocation that ended noted it in its attempt; of one that was killed the last live file tells;
without either, its receipts tell the time in which workers computed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from evalsuite.artifacts.live import Cost, LiveInvocation, read_live
from evalsuite.artifacts.receipts import ReceiptHead
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory


class Own(NamedTuple):
    """What the receipts of one invocation hold, of the stage `images`."""

    shards: int = 0
    images: int = 0
    gpu_s: float = 0.0
    cpu_s: float = 0.0
    energy_joules: float | None = None
    last_at: str = ""


def invocation_of(attempt_id: str) -> str:
    """The invocation that made an attempt."""
    return attempt_id.rpartition("-")[0]


def owned(receipts: Iterable[ReceiptHead]) -> dict[str, Own]:
    """What each invocation committed."""
    found: dict[str, Own] = {}
    for receipt in receipts:
        name = invocation_of(receipt.attempt_id)
        before = found.get(name, Own(energy_joules=0.0))
        seconds = receipt.seconds.get("compute", 0.0)
        on_gpu = str(receipt.worker.get("device", "")).startswith("cuda")
        found[name] = Own(
            before.shards + 1,
            before.images + receipt.stop - receipt.start,
            before.gpu_s + (seconds if on_gpu else 0.0),
            before.cpu_s + (0.0 if on_gpu else seconds),
            _plus(before.energy_joules, receipt.energy_joules),
            max(before.last_at, receipt.created_at),
        )
    return found


def cost_of(
    attempt: Mapping[str, Any] | None, live: LiveInvocation | None, own: Own | None
) -> Cost:
    """What an invocation cost, from the best of what it left."""
    noted = (attempt or {}).get("cost")  # from the end on
    try:
        if isinstance(noted, dict):
            return Cost.model_validate(noted)
    except ValidationError:  # of another version: the other sources tell
        pass
    if live is not None:
        return live.cost
    own = own or Own()
    return Cost(
        gpu_hours=round(own.gpu_s / 3600, 6),
        cpu_hours=round(own.cpu_s / 3600, 6),
        energy_joules=own.energy_joules,
    )


def together(costs: Sequence[Cost]) -> Cost:
    """The sum; unknown where a part is unknown that cost something.

    The price is kept where all invocations on GPUs had the same.
    """
    costs = [cost for cost in costs if cost.gpu_hours or cost.cpu_hours]
    on_gpus = [cost for cost in costs if cost.gpu_hours]
    prices = {cost.price_per_gpu_hour for cost in on_gpus}
    return Cost(
        gpu_hours=round(sum(cost.gpu_hours for cost in costs), 6),
        cpu_hours=round(sum(cost.cpu_hours for cost in costs), 6),
        energy_joules=_sum([cost.energy_joules for cost in on_gpus]),
        price_per_gpu_hour=prices.pop() if len(prices) == 1 else None,
        money=_sum([cost.money for cost in on_gpus]),
    )


def spent(run: RunDirectory) -> dict[str, Any]:
    """What all invocations on a run cost, for its records.

    `worker_seconds` is the time in which workers computed what is committed; the hours are those
    that workers were held. A receipt or an attempt that cannot be read stops nothing, and counts
    as none: what it committed is to be made again.
    """
    own = owned(run.ledger.readable(IMAGES)[0])
    live = read_live(run.storage)
    readable, _ = run.readable_attempts()
    attempts = {str(one.get("invocation_id")): one for one in readable}
    names = own.keys() | live.keys() | attempts.keys()
    cost = together([cost_of(attempts.get(n), live.get(n), own.get(n)) for n in sorted(names)])
    seconds = sum(one.gpu_s + one.cpu_s for one in own.values())
    return {"worker_seconds": round(seconds, 2), **cost.model_dump(mode="json")}


def _plus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known and len(known) == len(values) else None
