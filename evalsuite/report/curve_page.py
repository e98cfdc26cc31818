"""The page of curves: one HTML file that needs no network, of the same data as the figures."""

from typing import Any

from evalsuite.report.board_page import page_scripts
from evalsuite.report.curve_tables import curves_table
from evalsuite.report.curves import Curve, Curves, are_wide, shared_facts
from evalsuite.report.environment import page_environment
from evalsuite.report.figures import CURVE_COLOURS


def render_curves(found: Curves) -> str:
    """The page as HTML; unchanged data give unchanged text."""
    environment = page_environment()
    log_x, log_y = are_wide(found)
    return environment.get_template("curves.html.j2").render(
        found=found,
        table=curves_table(found),
        facts=shared_facts(found),
        figure={
            "x": {
                "title": found.x_title,
                "type": "log" if log_x else "linear",
                "words": found.words,
            },
            "y": {"title": found.y_title, "type": "log" if log_y else "linear"},
            "colours": CURVE_COLOURS,
            "curves": [_points(curve) for curve in found.curves],
        },
        **page_scripts(environment, "curves.js"),
    )


def _points(curve: Curve) -> dict[str, Any]:
    return {
        "label": curve.label,
        "x": [point.x for point in curve.points],
        "y": [point.y for point in curve.points],
        "half_width": [point.half_width for point in curve.points],
        "runs": ["; ".join(point.runs) for point in curve.points],
    }
