"""The tally: what events add up to."""

import pytest
from story import ENDS, T0, story

from evalsuite.artifacts.live import Counts
from evalsuite.runtime.events import Event
from evalsuite.runtime.observing.tally import Tally
from evalsuite.runtime.progress import Progress

HELD_S = 3600 + (1000 - 100) + 2600
"""Waiting for a place costs nothing; loading and idling do."""


def told(events: list[Event], **options: float) -> Tally:
    tally = Tally(**options)
    for event in events:
        tally.observe(event)
    return tally


def test_counts_of_everything_that_went_wrong() -> None:
    assert told(story()).counts == Counts(
        shards_committed=2,
        shards_retried=1,
        shards_computed_twice=1,
        shards_copied=1,
        workers_started=3,
        workers_lost=1,
    )


def test_what_runs_where_at_each_moment() -> None:
    """The lost worker is gone with its shard, and a copied shard is in two hands."""
    early = told(story()[:6]).workers
    assert [(w.name, w.state, w.host, w.pid) for w in early] == [
        ("worker-0", "ready", "node-a", 10),
        ("worker-1", "ready", "node-a", 11),
    ]
    assert [[(h.start, h.stop) for h in w.holds] for w in early] == [[(0, 64)], [(64, 128)]]
    late = told(story()[:13]).workers
    assert [(w.name, [(h.start, h.since - T0) for h in w.holds]) for w in late] == [
        ("worker-0", [(64, 1400)]),
        ("worker-2", [(64, 1020)]),
    ]
    assert told(story()[:1]).workers[0].state == "loading"
    assert told([*story(), *ENDS]).workers == ()


def test_hours_are_those_that_workers_held_their_gpus() -> None:
    cost = told([*story(), *ENDS], price_per_gpu_hour=2.5).cost()
    assert cost.gpu_hours == pytest.approx(HELD_S / 3600)
    assert cost.cpu_hours == 0
    assert cost.money == pytest.approx(2.5 * HELD_S / 3600, abs=1e-6)
    shared = told([*story(), *ENDS], gpus_per_worker=0.5).cost()
    assert shared.gpu_hours == pytest.approx(0.5 * HELD_S / 3600)
    assert shared.money is None


def test_a_worker_that_never_came_to_its_place_costs_nothing() -> None:
    """Nobody knows when, or whether, one that never was ready held a GPU."""
    dies = [
        Event("worker-starting", worker="worker-9", time=T0),
        Event("worker-lost", worker="worker-9", time=T0 + 360),
    ]
    cost = told([*story(), *ENDS, *dies]).cost()
    assert cost.gpu_hours == pytest.approx(HELD_S / 3600)
    waits = [*story(), Event("worker-starting", worker="worker-9", time=T0)]
    assert told(waits).cost(T0 + 3600) == told(story()).cost(T0 + 3600)


def test_workers_without_gpu_cost_no_money() -> None:
    events = [
        Event("worker-starting", worker="worker-0", time=T0),
        Event("worker-ready", worker="worker-0", device="cpu", time=T0 + 5),
    ]
    cost = told(events, price_per_gpu_hour=2.5).cost(now=T0 + 1800)
    assert (cost.gpu_hours, cost.cpu_hours, cost.money) == (0, 0.5, None)


def test_energy_is_the_sum_or_unknown() -> None:
    """A shard that was computed twice took its energy too; one unknown part, none is known."""
    assert told(story(joules=1000.0)).cost().energy_joules == 3000
    assert told(story()).cost().energy_joules is None
    mixed = [*story(joules=1000.0), *story()[6:7]]
    assert told(mixed).cost().energy_joules is None
    assert told([]).cost().energy_joules is None


def test_images_never_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost worker's images are computed again; the rate is that of the last ten minutes."""
    tally, clock = Tally(), [T0]
    monkeypatch.setattr("evalsuite.runtime.observing.tally.time.time", lambda: clock[0])
    assert tally.images_per_second is None
    for at, done in ((0, 0), (100, 400), (200, 300), (300, 600)):
        clock[0] = T0 + at
        tally.progress(Progress(done, 1000, 2, 0, loading=False))
        if at == 200:
            assert tally.images == (400, 1000)
    assert tally.images_per_second == pytest.approx(2.0)
    for minute in range(20):  # nothing moves any more
        clock[0] = T0 + 300 + 60 * minute
        tally.progress(Progress(600, 1000, 2, 0, loading=False))
    assert tally.images_per_second == 0
    tally.progress(Progress(580, 590, 2, 0, loading=False))  # another invocation made 410
    assert tally.images == (590, 590)
    assert tally.images_per_second == 0
