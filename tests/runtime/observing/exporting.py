"""Tells a made-up run to a real local Ray, and prints what its Prometheus endpoint says.

A process of its own, so that Ray's settings and its metrics go with it.
"""

import sys
import time
import urllib.request

from story import story

from evalsuite.runtime.cluster import connected
from evalsuite.runtime.observing.metrics import RunMetrics
from evalsuite.runtime.observing.tally import Tally
from evalsuite.runtime.progress import Progress

TAGS = {"run": "made", "plan": "7e4bf4c4286b", "invocation": "1f2e3d4c"}
TIMEOUT_S = 90
NUM_NAMES = 16
"""Seven gauges, six counters (nothing was set aside), three of the histogram."""


def main() -> None:
    with connected("local", 1, use_gpu=False):
        import ray

        tally = Tally()
        metrics = RunMetrics(tally, TAGS)
        tally.progress(Progress(0, 128, 2, 0, loading=False))
        time.sleep(1.1)  # before that there is no rate
        tally.progress(Progress(100, 128, 2, 1, loading=False))
        for event in story(joules=1500.0):
            tally.observe(event)
            metrics.observe(event)
        metrics.show(at_once=True)
        (node,) = ray.nodes()
        address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
        deadline = time.monotonic() + TIMEOUT_S
        lines: list[str] = []
        while (
            len({line.partition("{")[0] for line in lines}) < NUM_NAMES
            and time.monotonic() < deadline
        ):
            time.sleep(0.3)
            with urllib.request.urlopen(address, timeout=10) as answer:
                text = answer.read().decode()
            lines = [line for line in text.splitlines() if line.startswith("ray_evalsuite_")]
        sys.stderr.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
