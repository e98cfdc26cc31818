"""When each worker of an invocation computed, how fast all were, and what went wrong meanwhile.

Shards come from receipts; failures from the invocation's log, where it has one.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from evalsuite.artifacts.receipts import ReceiptHead
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import parse_json
from evalsuite.pipeline.spending import invocation_of
from evalsuite.runtime.observing.log import read_log

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
    process: tuple[str, int | None]
    start: float
    stop: float
    images: int


class _Log(NamedTuple):
    """What the log of an invocation tells: when attempts were committed, and failures."""

    committed: dict[str, float]
    failures: list[Failure]


def timelines_of(run: RunDirectory, receipts: Sequence[ReceiptHead]) -> list[Timeline]:
    """A timeline for each invocation that committed images, the oldest first."""
    grouped: dict[str, list[ReceiptHead]] = {}
    for receipt in receipts:
        grouped.setdefault(invocation_of(receipt.attempt_id), []).append(receipt)
    found = []
    for name, ours in grouped.items():
        log = _log_of(run, name)
        shards = [shard for receipt in ours if (shard := _shard(receipt, log)) is not None]
        found += [_timeline(name, shards, log.failures)] if shards else []
    return sorted(found, key=lambda one: one.start)


def worker_name(about: dict[str, Any]) -> str:
    """`host · device · pid 12` of what a receipt says of its worker."""
    return f"{about.get('host', '?')} · {about.get('device', '?')} · pid {about.get('pid', '?')}"


def _shard(receipt: ReceiptHead, log: _Log) -> _Shard | None:
    """When a receipt's shard was in hand; None of a time that cannot be read.

    A receipt tells whole seconds; the log, where there is one, tells more.
    """
    stop = log.committed.get(receipt.attempt_id)
    try:
        stop = datetime.fromisoformat(receipt.created_at).timestamp() if stop is None else stop
    except ValueError:
        return None
    seconds = receipt.seconds.get("total", receipt.seconds.get("compute", 0.0))
    about = receipt.worker
    process = str(about.get("host", "")), about.get("pid")
    images = receipt.stop - receipt.start
    return _Shard(worker_name(about), process, stop - seconds, stop, images)


def _timeline(name: str, shards: list[_Shard], failures: list[Failure]) -> Timeline:
    shards.sort(key=lambda one: (one.start, one.worker))
    start = min(shard.start for shard in shards)
    stop = max([*(shard.stop for shard in shards), *(one.at for one in failures)])
    lanes = []
    for worker in dict.fromkeys(shard.worker for shard in shards):
        ours = [shard for shard in shards if shard.worker == worker]
        own = [one for one in failures if (one.host, one.pid) == ours[0].process]
        spans = _joined([(one.start, one.stop) for one in ours], (stop - start) * _JOINT)
        lanes.append(WorkerLane(worker, spans, sum(one.images for one in ours), own))
    return Timeline(name, start, stop, lanes, _speeds(shards, start, stop), failures)


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


def _log_of(run: RunDirectory, invocation_id: str) -> _Log:
    """What the log of an invocation tells; lines that cannot be read are passed over.

    A log is news, not truth: the last line of one that was killed may be cut off.
    """
    committed: dict[str, float] = {}
    failures: list[Failure] = []
    for line in read_log(run, invocation_id).splitlines():
        if b'"level": "info"' in line and b'"shard-committed"' not in line:
            continue
        try:
            told = parse_json(line)
            if told["event"] == "shard-committed":
                committed[told["attempt"]] = datetime.fromisoformat(told["time"]).timestamp()
            elif told["event"] in _FAILURES:
                failures.append(_failure(told))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return _Log(committed, sorted(failures, key=lambda one: one.at))


def _failure(line: dict[str, Any]) -> Failure:
    at = datetime.fromisoformat(line["time"]).timestamp()
    shard = line.get("shard")
    where = f" (samples {shard})" if shard else ""
    worker, host, reason = (str(line.get(name) or "") for name in ("worker", "host", "reason"))
    pid = line.get("pid")
    known = pid if isinstance(pid, int) else None
    what = _FAILURES[line["event"]] + where
    return Failure(at, what, worker, host, known, reason)
