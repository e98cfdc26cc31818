"""A made-up invocation, told in the driver's words."""

from evalsuite.runtime.events import Event

T0 = 1_800_000_000.0
ON = {"host": "node-a", "device": "cuda:0"}


def story(*, joules: float | None = None) -> list[Event]:
    """Two workers on GPUs; one is lost with a shard in hand, which another worker commits.

    worker-0 holds its GPU from second 0 to 3600; worker-1 waits 100 s for its place, loads for 20 s
    and dies at 1000; worker-2 loads for 20 s and takes its place from 1000 to 3600.
    """
    first = {"worker": "worker-0", "pid": 10, **ON}
    second = {"worker": "worker-1", "pid": 11, **ON}
    third = {"worker": "worker-2", "pid": 12, **ON}
    spent = {"joules": joules}
    return [
        Event("worker-starting", worker="worker-0", time=T0),
        Event("worker-starting", worker="worker-1", time=T0),
        Event("worker-ready", **first, time=T0 + 20, seconds=20.0),
        Event("shard-handed", **first, start=0, stop=64, attempt_id="ab-1", time=T0 + 20),
        Event("worker-ready", **second, time=T0 + 120, seconds=20.0),
        Event("shard-handed", **second, start=64, stop=128, attempt_id="ab-2", time=T0 + 120),
        Event("shard-committed", **first, start=0, stop=64, seconds=500.0, time=T0 + 520, **spent),
        Event("worker-lost", **second, reason="killed by the memory monitor", time=T0 + 1000),
        Event("shard-retried", **second, start=64, stop=128, reason="lost", time=T0 + 1000),
        Event("worker-starting", worker="worker-2", time=T0 + 1000),
        Event("worker-ready", **third, time=T0 + 1020, seconds=20.0),
        Event("shard-handed", **third, start=64, stop=128, attempt_id="ab-3", time=T0 + 1020),
        Event("shard-copied", **first, start=64, stop=128, attempt_id="ab-4", time=T0 + 1400),
        Event(
            "shard-committed", **first, start=64, stop=128, seconds=90.0, time=T0 + 1500, **spent
        ),
        Event(
            "shard-discarded", **third, start=64, stop=128, seconds=600.0, time=T0 + 1600, **spent
        ),
    ]


ENDS = [
    Event("worker-ended", worker="worker-0", time=T0 + 3600),
    Event("worker-ended", worker="worker-2", time=T0 + 3600),
]
