"""How fast each invocation was, which workers had shards in hand when, and what failed."""

from datetime import UTC, datetime
from typing import NamedTuple

from markupsafe import Markup

from evalsuite.report.charts import Axis, Line, chart
from evalsuite.report.environment import duration, fill
from evalsuite.report.loaded import LONGEST_LIST, LoadedRun
from evalsuite.report.sections.part import Part
from evalsuite.report.timeline import Failure, Timeline, WorkerLane, timelines_of

MOST_TIMELINES = 4
_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_LONG = 3.0
"""A time is told in the largest unit of which it has so many."""


class _Lane(NamedTuple):
    """A worker's strip: spans and failures in percent of the invocation."""

    name: str
    images: int
    busy: float
    spans: list[tuple[float, float]]
    failures: list[tuple[float, str]]


class _Shown(NamedTuple):
    """One invocation as it is drawn."""

    title: str
    span: str
    chart: Markup | None
    lanes: list[_Lane]
    num_lanes: int
    failures: list[tuple[str, Failure]]
    num_failures: int


def timeline(run: LoadedRun) -> Part | None:
    """The last invocations that made images; None where no image is committed."""
    found = timelines_of(run.run, run.receipts)
    if not found:
        return None
    numbers = {one.id: one.number for one in run.invocations}
    shown = [_shown(one, numbers.get(one.invocation_id)) for one in found[-MOST_TIMELINES:]]
    return Part(
        fill(
            "sections/timeline.html.j2",
            shown=shown,
            num_more=len(found) - len(shown),
            longest_list=LONGEST_LIST,
        )
    )


def _shown(one: Timeline, number: int | None) -> _Shown:
    long = one.stop - one.start
    began = f"{datetime.fromtimestamp(one.start, UTC):%Y-%m-%d %H:%M:%S} UTC"
    title = f"Invocation {number}" if number else f"Invocation {one.invocation_id}, without an end"
    lanes = sorted(one.lanes, key=lambda lane: (not lane.failures, -lane.images))[:LONGEST_LIST]
    return _Shown(
        title,
        f"{began}, {duration(long)}",
        _speed(one, title) if one.speeds else None,
        [_lane(lane, one.start, max(long, 1e-9)) for lane in lanes],
        len(one.lanes),
        [(f"+{duration(failure.at - one.start)}", failure) for failure in one.failures],
        len(one.failures),
    )


def _lane(lane: WorkerLane, start: float, long: float) -> _Lane:
    spans = [
        (round(100 * (low - start) / long, 2), round(100 * (high - low) / long, 2))
        for low, high in lane.spans
    ]
    failures = [
        (round(min(100.0, max(0.0, 100 * (one.at - start) / long)), 2), one.what)
        for one in lane.failures
    ]
    busy = sum(high - low for low, high in lane.spans)
    return _Lane(lane.name, lane.images, busy, spans, failures)


def _speed(one: Timeline, title: str) -> Markup:
    """Images per second over time, as steps."""
    long = one.stop - one.start
    unit_s, unit = next((u for u in _UNITS if long >= _LONG * u[0]), _UNITS[-1])
    width = long / len(one.speeds) / unit_s
    steps: list[tuple[float, float]] = []
    for place, speed in enumerate(one.speeds):
        steps += [(place * width, speed), ((place + 1) * width, speed)]
    mean = sum(lane.images for lane in one.lanes) / long
    return chart(
        f"{title}: images per second over time, {mean:.3g} in the mean,"
        f" at most {max(one.speeds):.3g}",
        Axis(f"{unit} since its first shard was begun", 0.0, long / unit_s),
        Axis("images per second, all workers", 0.0, 1.05 * max(one.speeds) or 1.0),
        lines=[Line("images per second", steps)],
    )
