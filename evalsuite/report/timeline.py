"""When each worker of an invocation computed, how fast all were, and what went wrong meanwhile.

Shards come from receipts; failures from the invocation's log, where it has one.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from evalsuite.artifacts.receipts import ReceiptHead
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.pipeline.spending import invocation_of

NUM_BINS = 60
"""Of the curve of speed."""
_JOINT = 1 / 400
"""Pauses shorter than this share of the whole do not show, so spans are joined across them."""
_FAILURES = {
    "worker-lost": "worker lost",
    "shard-retried": "shard tried again",
    "shard-quarantined": "shard set aside",
    "node-left": "node left",
    "stopping": "stopped by a signal",
    "failed": "the invocation failed",
}
"""Events of a log that a reader wants to see, and their words."""


class Failure(NamedTuple):
    """Something that went wrong: `at` in seconds since the epoch."""

    at: float
    what: str
    worker: str
    host: str
    pid: int | None
    reason: str


class WorkerLane(NamedTuple):
    """What one worker did.

    Attributes:
        name: host, device and process.
        spans: (start, stop) in which it had a shard in hand, in seconds since the epoch.
        images: that it committed.
        failures: that are known to be its own.
    """

    name: str
    spans: list[tuple[float, float]]
    images: int
    failures: list[Failure]


class Timeline(NamedTuple):
    """One invocation from its first shard to its last.

    Attributes:
        invocation_id: whose.
        start: seconds since the epoch.
        stop: likewise.
        lanes: by worker, in the order of their first shard.
        speeds: images per second in `NUM_BINS` equal parts of the time.
        failures: all, in the order of time.
    """

    invocation_id: str
    start: float
    stop: float
    lanes: list[WorkerLane]
    speeds: list[float]
    failures: list[Failure]


class _Shard(NamedTuple):
    worker: str
    start: float
    stop: float
    images: int


def timelines_of(run: RunDirectory, receipts: Sequence[ReceiptHead]) -> list[Timeline]:
    """A timeline for each invocation that committed images, the oldest first."""
    shards: dict[str, list[tuple[_Shard, ReceiptHead]]] = {}
    for receipt in receipts:
        shard = _shard(receipt)
        if shard is not None:
            shards.setdefault(invocation_of(receipt.attempt_id), []).append((shard, receipt))
    found = [_timeline(run, name, pairs) for name, pairs in shards.items()]
    return sorted(found, key=lambda one: one.start)


def worker_name(about: dict[str, Any]) -> str:
    """`host · device · pid 12` of what a receipt says of its worker."""
    return f"{about.get('host', '?')} · {about.get('device', '?')} · pid {about.get('pid', '?')}"


def _shard(receipt: ReceiptHead) -> _Shard | None:
    """When a receipt's shard was in hand; None of a time that cannot be read."""
    try:
        stop = datetime.fromisoformat(receipt.created_at).timestamp()
    except ValueError:
        return None
    seconds = receipt.seconds.get("total", receipt.seconds.get("compute", 0.0))
    images = receipt.stop - receipt.start
    return _Shard(worker_name(receipt.worker), stop - seconds, stop, images)


def _timeline(
    run: RunDirectory, name: str, pairs: Sequence[tuple[_Shard, ReceiptHead]]
) -> Timeline:
    shards = sorted((shard for shard, _ in pairs), key=lambda one: (one.start, one.worker))
    failures = _failures(run, name)
    start = min(shard.start for shard in shards)
    stop = max([*(shard.stop for shard in shards), *(one.at for one in failures)])
    pids = {worker_name(receipt.worker): _process(receipt.worker) for _, receipt in pairs}
    lanes = []
    for worker in dict.fromkeys(shard.worker for shard in shards):
        ours = [shard for shard in shards if shard.worker == worker]
        own = [one for one in failures if (one.host, one.pid) == pids[worker]]
        spans = _joined([(one.start, one.stop) for one in ours], (stop - start) * _JOINT)
        lanes.append(WorkerLane(worker, spans, sum(one.images for one in ours), own))
    return Timeline(name, start, stop, lanes, _speeds(shards, start, stop), failures)


def _process(about: dict[str, Any]) -> tuple[str, int | None]:
    return str(about.get("host", "")), about.get("pid")


def _joined(spans: Iterable[tuple[float, float]], pause: float) -> list[tuple[float, float]]:
    """Spans in order, those that touch or nearly do made one."""
    found: list[tuple[float, float]] = []
    for low, high in sorted(spans):
        if found and low - found[-1][1] <= pause:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def _speeds(shards: Sequence[_Shard], start: float, stop: float) -> list[float]:
    """Images per second, as if every shard had gone evenly."""
    width = (stop - start) / NUM_BINS
    images = [0.0] * NUM_BINS
    if width <= 0:
        return []
    for shard in shards:
        rate = shard.images / max(shard.stop - shard.start, width / NUM_BINS)
        first = max(0, int((shard.start - start) / width))
        last = min(NUM_BINS - 1, int((shard.stop - start) / width))
        for place in range(first, last + 1):
            low, high = start + place * width, start + (place + 1) * width
            images[place] += rate * max(0.0, min(high, shard.stop) - max(low, shard.start))
    return [count / width for count in images]


def _failures(run: RunDirectory, invocation_id: str) -> list[Failure]:
    """What the log of an invocation tells of failures; lines that cannot be read are passed over.

    A log is news, not truth: the last line of one that was killed may be cut off.
    """
    content = run.storage.find(f"attempts/{invocation_id}.log.jsonl") or b""
    found = []
    for line in content.splitlines():
        if b'"level": "info"' in line:
            continue
        try:
            failure = _failure(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        found += [failure] if failure else []
    return sorted(found, key=lambda one: one.at)


def _failure(line: dict[str, Any]) -> Failure | None:
    what = _FAILURES.get(line["event"])
    if what is None:
        return None
    at = datetime.fromisoformat(line["time"]).timestamp()
    shard = line.get("shard")
    where = f" (samples {shard})" if shard else ""
    texts = (str(line.get(name) or "") for name in ("worker", "host"))
    pid = line.get("pid")
    known = pid if isinstance(pid, int) else None
    return Failure(at, what + where, *texts, known, str(line.get("reason") or ""))
