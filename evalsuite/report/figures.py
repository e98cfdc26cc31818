"""Figures for papers as PNG, PDF or SVG, of the same rows as the page."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from evalsuite.errors import DataError
from evalsuite.report.board import CLAIM, RESULT
from evalsuite.report.board_page import AXES

FIGURE_FORMATS = ("png", "pdf", "svg")


def figure_against(
    rows: Sequence[Mapping[str, Any]], section: str, axis: str, to: str, label: str = "FID"
) -> bytes:
    """One section's values against an axis: results with error bars, claims as open circles.

    Args:
        rows: of `flat_rows`.
        section: its title; rows of two protocols never share a figure.
        axis: a key of `AXES`.
        to: one of `FIGURE_FORMATS`; equal rows give equal bytes.
        label: of the vertical axis.

    Raises:
        DataError: no row of the section has both.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [r for r in rows if r["section"] == section and None not in {r["value"], r[axis]}]
    if not shown:
        raise DataError(f"nothing to plot: no row of {section!r} has a value and {AXES[axis]}")
    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    claims = [row for row in shown if row["kind"] == CLAIM]
    results = [row for row in shown if row["kind"] == RESULT]
    if claims:
        points = [row[axis] for row in claims], [row["value"] for row in claims]
        plot.scatter(*points, facecolors="none", edgecolors="#5b6570", label="claims")
    if results:
        plot.errorbar(
            [row[axis] for row in results],
            [row["value"] for row in results],
            [1.96 * (row["standard_error"] or 0.0) for row in results],
            fmt="o",
            color="#0b5c8a",
            capsize=3,
            label="results, 95 %",
        )
    named: dict[str, tuple[float, float]] = {}
    for row in results:
        named.setdefault(_plain(row["model"]), (row[axis], row["value"]))
    for name, place in named.items():
        plot.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    if _is_wide([row[axis] for row in shown]):
        plot.set_xscale("log")
    if _is_wide([row["value"] for row in shown]):
        plot.set_yscale("log")
    plot.set_xlabel(AXES[axis])
    plot.set_ylabel(label)
    plot.set_title(_plain(section), fontsize=9)
    plot.grid(visible=True, linewidth=0.4, alpha=0.5)
    plot.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    undated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(to, {})
    with mpl.rc_context({"svg.hashsalt": "evalsuite"}):  # otherwise ids are random
        figure.savefig(buffer, format=to, metadata=undated)
    return buffer.getvalue()


def _is_wide(values: Sequence[float]) -> bool:
    """Whether an axis is read better in powers, as the page decides too."""
    return min(values) > 0 and max(values) / min(values) > 10


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar would begin a formula."""
    return "".join(c for c in text if c.isprintable()).replace("$", "\\$")
