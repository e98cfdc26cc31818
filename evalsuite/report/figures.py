"""Figures for papers as PNG, PDF or SVG, of the same data as the pages."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.comparison import Z_95
from evalsuite.report.board import CLAIM, RESULT
from evalsuite.report.board_page import AXES
from evalsuite.report.curve_tables import place_text
from evalsuite.report.curves import (
    Curve,
    Curves,
    are_wide,
    each_point,
    is_wide,
    measured,
    shared_facts,
)
from evalsuite.report.rankings import EXTRAPOLATED

FIGURE_FORMATS = ("png", "pdf", "svg")
CURVE_COLOURS = ("#0b5c8a", "#b4460f", "#2f7a35", "#7a3f94", "#8a6d0b", "#a3214f", "#44525f")
"""Of curves, here and on the page; they can be told apart in grey too."""
_ACCENT = "#0b5c8a"
_TITLE_WIDTH = 110
_LONG_TEXT = 12
_REMARKS = {"unknown": "no place", "declared": "declared", "mixed_numerics": "mixed numerics"}
"""Beside a result whose row has them: its place is not what others' are."""


def figure_against(
    rows: Sequence[Mapping[str, Any]], title: str, axis: str, to: str, label: str = "FID"
) -> bytes:
    """One group's values against an axis: results with error bars, claims as open circles.

    Args:
        rows: of `plotted`, all of one figure.
        title: of that figure.
        axis: a key of `AXES`.
        to: one of `FIGURE_FORMATS`; equal rows give equal bytes.
        label: of the vertical axis.

    Raises:
        DataError: no row has both.
    """
    shown = [row for row in rows if None not in {row["value"], row[axis]}]
    if not shown:
        raise DataError(f"nothing to plot: no row of {title!r} has a value and {AXES[axis]}")
    figure, plot = _new_figure()
    claims = [row for row in shown if row["kind"] == CLAIM]
    results = [row for row in shown if row["kind"] == RESULT]
    if claims:
        points = [row[axis] for row in claims], [row["value"] for row in claims]
        plot.scatter(*points, facecolors="none", edgecolors="#5b6570", label="claims")
    _draw_results(plot, [row for row in results if row["standard_error"] is not None], axis)
    _draw_results(plot, [row for row in results if row["standard_error"] is None], axis)
    for row in results:
        words = ", guidance ".join(part for part in (row["model"], row["guidance"]) if part)
        words = ", ".join([words, *(said for key, said in _REMARKS.items() if row[key])])
        place = row[axis], row["value"]
        plot.annotate(_plain(words), place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    if is_wide([row[axis] for row in shown]):
        plot.set_xscale("log")
    if is_wide([row["value"] for row in shown]):
        plot.set_yscale("log")
    plot.set_xlabel(AXES[axis])
    plot.set_ylabel(label)
    plot.set_title(_plain(title), fontsize=9)
    plot.grid(visible=True, linewidth=0.4, alpha=0.5)
    _add_legend(figure, 3)
    return _encoded(figure, to)


def _draw_results(plot: Any, rows: Sequence[Mapping[str, Any]], axis: str) -> None:  # noqa: ANN401
    """Results that all have errors, or none of which has: those have a shape of their own."""
    if not rows:
        return
    x, y = [row[axis] for row in rows], [row["value"] for row in rows]
    if rows[0]["standard_error"] is None:
        plot.plot(x, y, "s", color=_ACCENT, label="results without an interval")
        return
    widths = [Z_95 * row["standard_error"] for row in rows]
    label = "results, 95 % interval"
    plot.errorbar(x, y, widths, fmt="o", color=_ACCENT, capsize=3, label=label)


def _add_legend(figure: Any, columns: int) -> None:  # noqa: ANN401 - matplotlib has no types
    """Below the plot: within it a key looks like one more point."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def figure_of_curves(found: Curves, to: str) -> bytes:
    """Curves with their 95 % bands, and what must be known of the numbers above them.

    Args:
        found: the data.
        to: one of `FIGURE_FORMATS`; equal data give equal bytes.
    """
    figure, plot = _new_figure()
    for place, curve in enumerate(found.curves):
        _draw(plot, curve, CURVE_COLOURS[place % len(CURVE_COLOURS)])
    for is_log, set_scale in zip(are_wide(found), (plot.set_xscale, plot.set_yscale), strict=True):
        if is_log:
            set_scale("log")
    if found.words:
        _set_places(plot, list(found.words))
    plot.set_xlabel(_plain(found.x_title))
    plot.set_ylabel(_plain(found.y_title))
    _set_title(plot, found, [found.band] if found.extrapolates else [])
    plot.grid(visible=True, linewidth=0.4, alpha=0.5)
    if len(found.curves) > 1:
        _add_legend(figure, min(3, len(found.curves)))
    return _encoded(figure, to)


def figure_of_map(found: Curves, to: str) -> bytes:
    """A heat map: a column for each place on the axis, a row for each curve, the best one in bold.

    Args:
        found: the data, of one protocol and one number of samples.
        to: one of `FIGURE_FORMATS`; equal data give equal bytes.

    Raises:
        UsageError: curves of several protocols or numbers of samples.
    """
    _check_alike(found)
    points = [point for _, point in each_point(found.curves)]
    is_lower = points[0].record.better == "lower"
    best = min(points, key=lambda point: point.y if is_lower else -point.y).y
    reach = max(abs(point.y - best) for point in points) or 1.0
    places = sorted({point.x for point in points})
    figure, plot = _new_figure()
    strengths = [[math.nan] * len(places) for _ in found.curves]
    for row, curve in enumerate(found.curves):
        for point in curve.points:
            column, strength = places.index(point.x), 1 - abs(point.y - best) / reach
            strengths[row][column] = strength
            weight = "bold" if point.y == best else "normal"
            middle = {"ha": "center", "va": "center", "fontsize": 7}
            plot.text(column, row, f"{point.y:.4f}", weight=weight, **middle)
    # half of the colours alone: black numbers can be read on all of them
    plot.imshow(strengths, cmap="Blues", vmin=0, vmax=2, aspect="auto")
    _set_places(plot, [place_text(found, place) for place in places])
    labels = [curve.label.removesuffix(f", {EXTRAPOLATED}") for curve in found.curves]
    plot.set_yticks(range(len(labels)), list(map(_plain, labels)))
    plot.set_xlabel(_plain(found.x_title))
    _set_title(plot, found, [f"{found.y_title}; the best in bold"])
    return _encoded(figure, to)


def _set_places(plot: Any, texts: Sequence[str]) -> None:  # noqa: ANN401 - as above
    """Texts at 0, 1, ... of the x axis, long ones aslant."""
    aslant: dict[str, Any] = {"rotation": 20, "ha": "right", "fontsize": 7}
    is_long = max(map(len, texts)) > _LONG_TEXT
    plot.set_xticks(range(len(texts)), list(map(_plain, texts)), **(aslant if is_long else {}))


def _check_alike(found: Curves) -> None:
    """Raise UsageError where a map would mix what no line goes through."""
    counts = sorted({curve.protocol.num_samples for curve in found.curves})
    if len(counts) > 1:
        listed = " or ".join(map(str, counts))
        raise UsageError(f"--map is of one number of samples: give --num-samples {listed}")
    if len({measured(point.record) for _, point in each_point(found.curves)}) > 1:
        raise UsageError("--map is of one protocol: give --protocol")


def _set_title(plot: Any, found: Curves, more: Sequence[str]) -> None:  # noqa: ANN401 - as above
    """What all curves share, and what else must be known of the numbers."""
    facts = ", ".join(f"{name} {text}" for name, text in shared_facts(found).items())
    words = [facts, *more, *found.notes]
    lines = [_plain(line) for text in words for line in textwrap.wrap(text, _TITLE_WIDTH)]
    plot.set_title("\n".join(lines), fontsize=8 if len(words) == 1 else 6)


def _draw(plot: Any, curve: Curve, colour: str) -> None:  # noqa: ANN401 - matplotlib has no types
    x, y = [point.x for point in curve.points], [point.y for point in curve.points]
    plot.plot(x, y, marker="o", markersize=4, color=colour, label=_plain(curve.label))
    widths = [point.half_width for point in curve.points]
    known = [(a, b, width) for a, b, width in zip(x, y, widths, strict=True) if width is not None]
    if not known:
        return
    where, values, half = zip(*known, strict=True)
    if len(known) == len(x) and len(x) > 1:
        low = [value - width for value, width in zip(values, half, strict=True)]
        high = [value + width for value, width in zip(values, half, strict=True)]
        plot.fill_between(where, low, high, color=colour, alpha=0.2, linewidth=0)
    else:  # a band between points of which one has no error would show one
        plot.errorbar(where, values, half, fmt="none", ecolor=colour, capsize=3)


def _new_figure() -> tuple[Any, Any]:
    """A figure of matplotlib with its one plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _encoded(figure: Any, to: str) -> bytes:  # noqa: ANN401 - matplotlib has no types
    """The file of a figure, without dates and random ids."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    undated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(to, {})
    with mpl.rc_context({"svg.hashsalt": "evalsuite"}):  # otherwise ids are random
        figure.savefig(buffer, format=to, metadata=undated)
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar would begin a formula."""
    return "".join(c for c in text if c.isprintable()).replace("$", "\\$")
