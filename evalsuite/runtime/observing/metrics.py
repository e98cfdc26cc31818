"""A run's metrics for Prometheus, through Ray, which exports them on every node."""

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from evalsuite.runtime.events import Event
from evalsuite.runtime.observing.tally import Tally

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

PREFIX = "evalsuite_"
"""Of our names; Ray puts `ray_` before it, and `_total` behind counters."""
TAGS = ("run", "plan", "invocation")
BOUNDARIES_S = [1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]
_EVERY_S = 1.0


class Metric(NamedTuple):
    """One metric as Prometheus sees it."""

    kind: Literal["gauge", "counter", "histogram"]
    about: str


METRICS = {
    "images_done": Metric("gauge", "Images computed by this invocation."),
    "images_total": Metric("gauge", "Images that this invocation is to make."),
    "images_per_second": Metric("gauge", "Images per second over the last ten minutes."),
    "workers_alive": Metric("gauge", "Worker processes, the loading ones included."),
    "workers_loading": Metric("gauge", "Worker processes that have not loaded yet."),
    "gpu_hours": Metric("gauge", "Time that workers held GPUs, in hours."),
    "energy_joules": Metric("gauge", "Energy of the GPUs while they computed, where NVML has it."),
    "workers_lost": Metric("counter", "Workers that died, hung or were replaced."),
    "shards_committed": Metric("counter", "Shards committed."),
    "shards_retried": Metric("counter", "Shards that went back to the queue."),
    "shards_computed_twice": Metric("counter", "Attempts that another had committed before."),
    "shards_copied": Metric("counter", "Second attempts at shards that were slow."),
    "shards_quarantined": Metric("counter", "Shards that were set aside."),
    "compute_seconds": Metric("counter", "Seconds of all committed shards together."),
    "shard_seconds": Metric("histogram", "Seconds from a shard's beginning to its commit."),
}
"""By name without prefix. Ray 2.60 takes a histogram's sum from the middles of its buckets, so the
mean is `compute_seconds` over `shards_committed`."""
_COUNTED = {
    "worker-lost": "workers_lost",
    "shard-committed": "shards_committed",
    "shard-retried": "shards_retried",
    "shard-discarded": "shards_computed_twice",
    "shard-copied": "shards_copied",
    "shard-quarantined": "shards_quarantined",
}


def exported_names() -> set[str]:
    """The names under which Prometheus finds them."""
    names = set()
    for name, metric in METRICS.items():
        full = f"ray_{PREFIX}{name}"
        if metric.kind == "histogram":
            names |= {f"{full}_bucket", f"{full}_sum", f"{full}_count"}
        else:
            names.add(f"{full}_total" if metric.kind == "counter" else full)
    return names


class RunMetrics:
    """Listens to events; needs a connected Ray from the first event on."""

    def __init__(self, tally: Tally, tags: dict[str, str]) -> None:
        """Prepare.

        Args:
            tally: where gauges come from; it must hear of an event before this does.
            tags: values of TAGS.
        """
        self._tally, self._tags = tally, tags
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._shown_s = float("-inf")

    def observe(self, event: Event) -> None:
        """Count an event."""
        self._open()
        if event.kind in _COUNTED:
            self._counters[_COUNTED[event.kind]].inc(1, self._tags)
        if event.kind == "shard-committed" and event.seconds:
            self._counters["compute_seconds"].inc(event.seconds, self._tags)
            self._histograms["shard_seconds"].observe(event.seconds, self._tags)
        self.show(at_once=event.kind.startswith("worker-"))

    def show(self, *, at_once: bool = False) -> None:
        """Set the gauges, at most once a second."""
        if not at_once and time.monotonic() - self._shown_s < _EVERY_S:
            return
        self._open()
        self._shown_s = time.monotonic()
        workers, cost = self._tally.workers, self._tally.cost()
        done, total = self._tally.images
        values = {
            "images_done": done,
            "images_total": total,
            "images_per_second": self._tally.images_per_second,
            "workers_alive": len(workers),
            "workers_loading": sum(worker.state == "loading" for worker in workers),
            "gpu_hours": cost.gpu_hours,
            "energy_joules": cost.energy_joules,
        }
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(value, self._tags)

    def _open(self) -> None:
        """Make the metrics, once Ray is there."""
        if self._gauges:
            return
        from ray.util.metrics import Counter, Gauge, Histogram

        for name, metric in METRICS.items():
            full = f"{PREFIX}{name}"
            if metric.kind == "gauge":
                self._gauges[name] = Gauge(full, metric.about, TAGS)
            elif metric.kind == "counter":
                self._counters[name] = Counter(full, metric.about, TAGS)
            else:
                self._histograms[name] = Histogram(full, metric.about, BOUNDARIES_S, TAGS)
