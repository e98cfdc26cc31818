"""Charts of a sweep: the metric along each axis, against other numbers, and over two axes."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from evalsuite.metrics.registry import METRICS
from evalsuite.report.charts import (
    NUM_COLOURS,
    Axis,
    Key,
    Line,
    Point,
    axis_of,
    axis_of_names,
    chart,
    colour,
)
from evalsuite.report.sweep_points import Hours, SweepAxis, Tried, level_with
from evalsuite.sweep.tables import RungTable

MOST_PAIRS = 6
"""Heat maps on the page; more axes than four have more pairs."""


class HeatMap(NamedTuple):
    """A metric over two axes.

    Attributes:
        down: axis of the rows.
        across: axis of the columns.
        cells: text, strength 0 (worst) to 1 (best), and whether it is the best, by row; None where
            no configuration stands.
        fixed: values of the other axes, those of the winner.
    """

    down: SweepAxis
    across: SweepAxis
    cells: list[list[tuple[str, float, bool] | None]]
    fixed: str


class Scale(NamedTuple):
    """What is plotted of a rung: the number by which it ranks, and how wide its band is.

    Attributes:
        title: of the axis.
        value: of a row; None where it is undefined.
        half_width: of its interval; None where there is none.
        words: what the band is.
    """

    title: str
    value: Callable[[Tried], float | None]
    half_width: Callable[[Tried], float | None]
    words: str


def scale_of(table: RungTable, name: str) -> Scale:
    """A rung's own number: extrapolated ones have an interval of the difference alone.

    Args:
        table: the rung.
        name: of the metric, as it stands in tables.
    """
    if table.extrapolated:
        return Scale(
            f"{name}, extrapolated to infinite N",
            lambda tried: tried.row.ranked_by,
            lambda tried: tried.row.half_width,
            "the interval of the difference from the leader, by which configurations are dropped",
        )
    return Scale(
        f"{name} of {table.num_samples:,} samples",
        lambda tried: tried.row.value,
        lambda tried: None if (e := tried.row.standard_error) is None else 1.96 * e,
        "the 95 % interval of each value by itself; pairs are told apart more finely",
    )


def along(
    axis: SweepAxis,
    tried: Sequence[Tried],
    scale: Scale,
    others: Sequence[SweepAxis],
    *,
    lower: bool,
) -> Markup | None:
    """The metric along one axis, a line for each combination of the others; None of one place."""
    lines: dict[str, list[Tried]] = {}
    for one in tried:
        if scale.value(one) is not None:
            rest = ", ".join(f"{a.name}={a.texts[one.places[a.name]]}" for a in others)
            lines.setdefault(rest, []).append(one)
    long = [name for name, ones in lines.items() if len(ones) > 1]
    if not long:
        return None
    sign = 1 if lower else -1
    long.sort(key=lambda name: min(sign * _value(one, scale) for one in lines[name]))
    names = long[:NUM_COLOURS]
    drawn = [_line(name, lines[name], axis, scale, colour(i)) for i, name in enumerate(names)]
    points = [
        _point(one, scale, _place(axis, one), colour(i))
        for i, name in enumerate(names)
        for one in lines[name]
    ]
    ends = [end for line in drawn for _, low, high in line.band for end in (low, high)]
    band = f"The band is {scale.words}." if ends else "No interval is known."
    left = len(lines) - len(names)
    return chart(
        f"{scale.title} along {axis.name}; the tables below hold the same numbers",
        _axis(axis, [point.x for point in points]),
        axis_of([*ends, *(point.y for point in points)], scale.title),
        lines=drawn,
        points=points,
        legend=[Key(name, colour(i)) for i, name in enumerate(names)] if others else [],
        caption=f"{band} Lines left to the tables: {left}." if left else band,
    )


def _line(name: str, ones: Sequence[Tried], axis: SweepAxis, scale: Scale, kind: str) -> Line:
    """A line in the order of the axis; whoever has no interval, such as a leader, has no width."""
    ordered = sorted(ones, key=lambda one: _place(axis, one))
    path = [(_place(axis, one), _value(one, scale)) for one in ordered]
    widths = [scale.half_width(one) or 0.0 for one in ordered]
    band = [(x, y - width, y + width) for (x, y), width in zip(path, widths, strict=True)]
    return Line(name, path, band if any(widths) else (), kind)


def against(
    tried: Sequence[Tried], scale: Scale, hours: Hours, num_samples: int, prefix: str
) -> list[Markup]:
    """The metric against Inception Score, NFE and hours, each where it is known of two or more.

    Args:
        tried: configurations of one rung.
        scale: of the metric.
        hours: of an image of each.
        num_samples: of the rung.
        prefix: of the names of its extractor's metrics.
    """
    measures: list[tuple[str, Callable[[Tried], float | None]]] = [
        (
            f"{prefix}{METRICS['inception_score'].display}",
            lambda one: one.row.others.get("inception_score"),
        ),
        ("NFE per image", lambda one: float(one.entry.nfe)),
        (f"{hours.unit} of {num_samples:,} samples", _hours(hours, num_samples)),
    ]
    return [
        found
        for title, measure in measures
        if (found := _scatter(tried, scale, title, measure)) is not None
    ]


def heat_maps(
    axes: Sequence[SweepAxis], tried: Sequence[Tried], scale: Scale, winner: Tried, *, lower: bool
) -> list[HeatMap]:
    """One for each pair of axes, the others at the winner's values."""
    maps = []
    for down, across in itertools.islice(itertools.combinations(axes, 2), MOST_PAIRS):
        rest = [axis for axis in axes if axis is not down and axis is not across]
        known = [one for one in tried if scale.value(one) is not None]
        level, fixed = level_with(winner, known, rest)
        maps.append(HeatMap(down, across, _cells(down, across, level, scale, lower=lower), fixed))
    return maps


def _cells(
    down: SweepAxis, across: SweepAxis, level: Sequence[Tried], scale: Scale, *, lower: bool
) -> list[list[tuple[str, float, bool] | None]]:
    values = {(one.places[down.name], one.places[across.name]): _value(one, scale) for one in level}
    low, high = min(values.values(), default=0.0), max(values.values(), default=1.0)
    best = low if lower else high
    reach = (high - low) or 1.0
    return [
        [
            None
            if (value := values.get((row, column))) is None
            else (f"{value:.4f}", round(1 - abs(value - best) / reach, 3), value == best)
            for column in range(len(across.values))
        ]
        for row in range(len(down.values))
    ]


def _scatter(
    tried: Sequence[Tried], scale: Scale, title: str, measure: Callable[[Tried], float | None]
) -> Markup | None:
    points = [
        _point(one, scale, x, "s0" if one.row.goes_on else "s0 open", f"{title} {x:.4g}")
        for one in tried
        if (x := measure(one)) is not None and scale.value(one) is not None
    ]
    if len({point.x for point in points}) < 2:
        return None
    ends = [p.y + sign * (p.half_width or 0.0) for p in points for sign in (-1, 1)]
    return chart(
        f"{scale.title} against {title} of {len(points)} configurations",
        axis_of([point.x for point in points], title),
        axis_of(ends, scale.title),
        points=points,
    )


def _point(one: Tried, scale: Scale, x: float, kind: str, also: str = "") -> Point:
    width = scale.half_width(one)
    value = _value(one, scale)
    interval = f" [{value - width:.4f}, {value + width:.4f}]" if width else ""
    text = f"{one.row.name}: {value:.4f}{interval}"
    return Point(x, value, f"{text}; {also}" if also else text, width, kind)


def _value(one: Tried, scale: Scale) -> float:
    value = scale.value(one)
    assert value is not None
    return value


def _place(axis: SweepAxis, one: Tried) -> float:
    index = one.places[axis.name]
    return float(index) if axis.numbers is None else axis.numbers[index]


def _axis(axis: SweepAxis, places: Sequence[float]) -> Axis:
    if axis.numbers is None:
        return axis_of_names(axis.texts, axis.name)
    return axis_of(places, axis.name, log=False)


def _hours(hours: Hours, num_samples: int) -> Callable[[Tried], float | None]:
    def of(one: Tried) -> float | None:
        found = hours.by_name.get(one.entry.name)
        return None if found is None else found * num_samples

    return of
