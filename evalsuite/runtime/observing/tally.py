"""The state of an invocation, folded from its events: workers, shards in hand, counts, cost."""

import collections
import threading
import time
from dataclasses import dataclass, field

from evalsuite.artifacts.live import Cost, Counts, Hold, LiveWorker
from evalsuite.runtime.events import Event
from evalsuite.runtime.progress import Progress

RATE_WINDOW_S = 600.0
"""The rate is that of the last so many seconds."""
_FEWEST_S = 1.0  # before a rate says anything
_COUNTED = {
    "worker-starting": "workers_started",
    "worker-lost": "workers_lost",
    "shard-committed": "shards_committed",
    "shard-discarded": "shards_computed_twice",
    "shard-retried": "shards_retried",
    "shard-copied": "shards_copied",
    "shard-quarantined": "shards_quarantined",
}
_TAKES = {"shard-handed", "shard-copied"}
_GIVES_BACK = {"shard-committed", "shard-discarded", "shard-retried", "shard-quarantined"}


@dataclass
class _Held:
    """A worker that is there, or was."""

    since: float
    ready_at: float | None = None
    host: str = ""
    pid: int | None = None
    device: str = ""
    holds: dict[tuple[int, int], float] = field(default_factory=dict)


class Tally:
    """Listens to events and progress; says at any time, from any thread, where things stand."""

    def __init__(
        self, *, gpus_per_worker: float = 1.0, price_per_gpu_hour: float | None = None
    ) -> None:
        """Begin with nothing.

        Args:
            gpus_per_worker: GPUs, or the part of one, that a worker on GPUs holds.
            price_per_gpu_hour: in any currency; None when no money is to be reckoned.
        """
        self._lock = threading.Lock()
        self._gpus_per_worker, self._price = gpus_per_worker, price_per_gpu_hour
        self._workers: dict[str, _Held] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._past_s: dict[str, float] = {}
        self._joules: float | None = 0.0
        self._trail: collections.deque[tuple[float, int]] = collections.deque()
        self._images = (0, 0)

    def observe(self, event: Event) -> None:
        """Take an event in."""
        with self._lock:
            if event.kind in _COUNTED:
                self._counts[_COUNTED[event.kind]] += 1
            self._follow_worker(event)
            self._follow_shard(event)

    def progress(self, standing: Progress) -> None:
        """Take in how many images there are; never fewer than before, and never more than all.

        Others' images that are left out make the total smaller.
        """
        now = time.time()
        with self._lock:
            done = min(max(standing.images_done, self._images[0]), standing.images_total)
            self._images = (done, standing.images_total)
            if not standing.loading and (not self._trail or now - self._trail[-1][0] >= 1):
                self._trail.append((now, done))
            while len(self._trail) > 2 and now - self._trail[0][0] > RATE_WINDOW_S:
                self._trail.popleft()

    @property
    def images(self) -> tuple[int, int]:
        """Images done, and all that this invocation is to make."""
        with self._lock:
            return self._images

    @property
    def images_per_second(self) -> float | None:
        """Over the last ten minutes; None before anything can be said."""
        with self._lock:
            if not self._trail:
                return None
            began, before = self._trail[0]
            seconds = time.time() - began
            made = max(0, self._images[0] - before)
            return made / seconds if seconds >= _FEWEST_S else None

    @property
    def counts(self) -> Counts:
        """What happened so far."""
        with self._lock:
            return Counts(**self._counts)

    @property
    def workers(self) -> tuple[LiveWorker, ...]:
        """The workers that are there, and the shards that each has in hand."""
        with self._lock:
            return tuple(_shown(name, held) for name, held in self._workers.items())

    def cost(self, now: float | None = None) -> Cost:
        """What it took until now."""
        now = time.time() if now is None else now
        with self._lock:
            seconds = self._past_s.copy()
            for held in self._workers.values():
                if held.ready_at is not None:  # it may still wait for its place
                    _add(seconds, held.device, now - held.since)
            joules = self._joules if self._counts["shards_committed"] else None
        return _cost_of(seconds, joules, self._gpus_per_worker, self._price)

    def _follow_worker(self, event: Event) -> None:
        if event.kind == "worker-starting":
            self._workers[event.worker] = _Held(event.time, host=event.host, device=event.device)
        elif event.kind == "worker-ready":
            held = self._workers.setdefault(event.worker, _Held(event.time))
            held.ready_at = event.time
            held.host, held.pid, held.device = event.host, event.pid, event.device
            if event.seconds is not None:  # it waited for its place before it began to load
                held.since = max(held.since, event.time - event.seconds)
        elif event.kind in {"worker-lost", "worker-ended"}:
            gone = self._workers.pop(event.worker, None)
            if gone is not None and gone.ready_at is not None:
                _add(self._past_s, gone.device, event.time - gone.since)

    def _follow_shard(self, event: Event) -> None:
        if event.start is None or event.stop is None:
            return
        shard, held = (event.start, event.stop), self._workers.get(event.worker)
        if held is not None and event.kind in _TAKES:
            held.holds[shard] = event.time
        elif held is not None and event.kind in _GIVES_BACK:
            held.holds.pop(shard, None)
        if event.kind == "shard-committed":
            for other in self._workers.values():  # copies of it are withdrawn
                other.holds.pop(shard, None)
            if event.joules is None:
                self._joules = None
        if self._joules is not None and event.joules is not None:
            self._joules += event.joules


def _shown(name: str, held: _Held) -> LiveWorker:
    return LiveWorker(
        name=name,
        host=held.host,
        pid=held.pid,
        device=held.device,
        state="loading" if held.ready_at is None else "ready",
        since=held.since if held.ready_at is None else held.ready_at,
        holds=tuple(
            Hold(start=start, stop=stop, since=since)
            for (start, stop), since in sorted(held.holds.items())
        ),
    )


def _add(seconds: dict[str, float], device: str, more_s: float) -> None:
    seconds[device] = seconds.get(device, 0.0) + max(0.0, more_s)


def _cost_of(
    seconds: dict[str, float], joules: float | None, gpus: float, price: float | None
) -> Cost:
    """Hours by device; a worker that was lost before it told its device is of the others' kind."""
    on_gpu = any(device.startswith("cuda") for device in seconds)
    of_gpus = [s for device, s in seconds.items() if not device or device.startswith("cuda")]
    gpu_s = sum(of_gpus) if on_gpu else 0.0
    gpu_hours = gpu_s * gpus / 3600
    return Cost(
        gpu_hours=round(gpu_hours, 6),
        cpu_hours=round((sum(seconds.values()) - gpu_s) / 3600, 6),
        energy_joules=None if joules is None else round(joules, 3),
        price_per_gpu_hour=price,
        money=None if price is None or not on_gpu else round(gpu_hours * price, 6),
    )
