"""Charts as SVG that stretches with the page: lines with bands, points, shapes; no script needed.

Places are percentages of the plot's area, so that text and markers keep their size at any width.
Colours are classes `s0` to `s5` of the style sheet, which knows light, dark and paper.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from evalsuite.report.environment import fill

NUM_COLOURS = 6
_WIDE = 30.0
"""Positive values that differ by more than this factor are read better in powers."""
_WIDEST = 1e12
"""Values that differ by more are no measurements, and no axis shows them well."""
_MARGIN = 0.05
_MOST_POWERS = 6
_LONGEST = 14
"""Letters of a name below an axis."""


class Tick(NamedTuple):
    """A label and its place in percent of the axis."""

    place: float
    text: str


class Axis(NamedTuple):
    """One axis of a chart.

    Attributes:
        title: with its unit.
        low: value at 0 %.
        high: value at 100 %.
        log: whether equal lengths are equal ratios.
        labels: names of 0, 1, 2, ... of an axis without numbers.
    """

    title: str
    low: float
    high: float
    log: bool = False
    labels: tuple[str, ...] = ()

    def place(self, value: float) -> float:
        """Where a value stands, in percent."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return round(100 * (self._scaled(value) - low) / (high - low), 3)

    def ticks(self) -> list[Tick]:
        """Round values along the axis, four to seven of them where they are linear; or names."""
        if self.labels:
            return [Tick(self.place(place), text) for place, text in enumerate(self.labels)]
        values = _powers(self.low, self.high) if self.log else _round_values(self.low, self.high)
        return [Tick(self.place(value), f"{value:.6g}") for value in values]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


class Line(NamedTuple):
    """A line through points in the order of x, with a band where there are errors.

    Attributes:
        name: for the legend.
        points: (x, y).
        band: (x, low, high) of its interval.
        kind: class of the style sheet.
    """

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    kind: str = "s0"


class Point(NamedTuple):
    """A marker.

    Attributes:
        x: place.
        y: place.
        text: what is shown when the pointer is over it.
        half_width: of its interval along y.
        kind: class of the style sheet; `small`, `open` may be added.
    """

    x: float
    y: float
    text: str = ""
    half_width: float | None = None
    kind: str = "s0"


class Key(NamedTuple):
    """An entry of a legend."""

    name: str
    kind: str


def axis_of(values: Iterable[float], title: str, *, log: bool | None = None) -> Axis:
    """An axis that holds the values with a little room; in powers where they differ widely.

    Raises:
        ValueError: no finite value.
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        raise ValueError("an axis needs a finite value")
    low, high = min(known), max(known)
    if log is None:
        log = low > 0 and _WIDE < high / low < _WIDEST
    if log:
        room = (high / low) ** _MARGIN if high > low else 2.0
        return Axis(title, low / room, high * room, log=True)
    differ = high - low > 1e-9 * max(abs(low), abs(high))
    room = (high - low) * _MARGIN if differ else abs(high) * 0.1 or 1.0
    return Axis(title, low - room, high + room)


def of_one_unit(x: Axis, y: Axis) -> tuple[Axis, Axis]:
    """Both axes as long as the longer one, about their middles: equal lengths mean the same."""
    half = max(x.high - x.low, y.high - y.low) / 2
    middles = (x.low + x.high) / 2, (y.low + y.high) / 2
    widened = (
        axis._replace(low=middle - half, high=middle + half)
        for axis, middle in zip((x, y), middles, strict=True)
    )
    first, second = widened
    return first, second


def axis_of_names(names: Sequence[str], title: str) -> Axis:
    """An axis with a place for each name: 0, 1, 2, ..."""
    shown = tuple(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names)
    return Axis(title, -0.5, len(names) - 0.5, labels=shown)


def chart(
    alt: str,
    x: Axis,
    y: Axis,
    *,
    lines: Sequence[Line] = (),
    points: Sequence[Point] = (),
    legend: Sequence[Key] = (),
    caption: str = "",
    is_square: bool = False,
) -> Markup:
    """A figure; what it shows must also stand in `alt`, in words, or in a table below it.

    Args:
        alt: read aloud in place of the picture.
        x: horizontal axis.
        y: vertical axis.
        lines: drawn first.
        points: drawn over them.
        legend: entries, where there are several kinds.
        caption: below the figure.
        is_square: for two axes of one unit.
    """
    return fill(
        "chart.html.j2",
        alt=alt,
        x=x,
        y=y,
        paths=[_path(line, x, y) for line in lines],
        points=[_placed(point, x, y) for point in points],
        legend=legend,
        caption=caption,
        is_square=is_square,
    )


def colour(place: int) -> str:
    """The class of the n-th series; they repeat."""
    return f"s{place % NUM_COLOURS}"


class _Path(NamedTuple):
    kind: str
    line: str
    band: str


class _Placed(NamedTuple):
    kind: str
    text: str
    x: float
    y: float
    top: float | None
    bottom: float | None


def _path(line: Line, x: Axis, y: Axis) -> _Path:
    upper = [(a, high) for a, _, high in line.band]
    lower = [(a, low) for a, low, _ in reversed(line.band)]
    band = _joined([*upper, *lower], x, y)
    return _Path(line.kind, _joined(line.points, x, y), f"{band}Z" if band else "")


def _joined(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    places = [f"{x.place(a):g} {100 - y.place(_within(b, y)):g}" for a, b in points]
    return f"M{'L'.join(places)}" if places else ""


def _within(value: float, axis: Axis) -> float:
    """A value that a logarithmic axis can show: the lower end of an interval may be negative."""
    return max(value, axis.low) if axis.log else value


def _placed(point: Point, x: Axis, y: Axis) -> _Placed:
    place = x.place(point.x), round(100 - y.place(point.y), 3)
    if point.half_width is None:
        return _Placed(point.kind, point.text, *place, None, None)
    ends = point.y + point.half_width, _within(point.y - point.half_width, y)
    top, bottom = (round(100 - y.place(end), 3) for end in ends)
    return _Placed(point.kind, point.text, *place, top, bottom)


def _round_values(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next((factor for factor in (5, 2) if (high - low) / (step * factor) >= 4), 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; every so many powers where they are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    powers = range(first, last + 1, max(1, (last - first) // _MOST_POWERS))
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in values if low <= value <= high]
