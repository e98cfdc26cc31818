"""The numbers of a figure of curves as rows and as a table: the same data in every format."""

from typing import Any

from evalsuite.report.curves import Curves, Point, each_point
from evalsuite.report.summary import number
from evalsuite.report.tables import TextTable

COLUMNS = (
    "curve",
    "x",
    "y",
    "standard_error",
    "low",
    "high",
    "extrapolated",
    "num_samples",
    "protocol",
    "protocol_id",
    "reference",
    "model",
    "plan_id",
    "run",
    "note",
)
"""Of the data as CSV; `x` and `y` are named by what was asked."""
_LEADS = "leads its rung: differences are from it, and it has no interval of its own"
_OF_DIFFERENCE = "low and high are the interval of the difference from the leader, about the value"


def curve_rows(found: Curves) -> list[dict[str, Any]]:
    """One mapping for each point, with the keys of `columns_of`."""
    rows = []
    for curve, point in each_point(found.curves):
        record, width = point.record, None if point.leads else point.half_width
        row = {
            "curve": curve.label,
            "x": _whole(found.place(point.x)),
            "y": point.y,
            "standard_error": point.error,
            "low": None if width is None else point.y - width,
            "high": None if width is None else point.y + width,
            "extrapolated": point.extrapolated,
            "num_samples": record.protocol.num_samples,
            "protocol": record.protocol_name,
            "protocol_id": record.protocol_id,
            "reference": record.reference,
            "model": record.samples.get("model"),
            "plan_id": record.samples.get("plan_id"),
            "run": "; ".join(point.runs),
            "note": "; ".join(_notes(point)),
        }
        rows.append(dict(zip(columns_of(found), row.values(), strict=True)))
    return rows


def _notes(point: Point) -> list[str]:
    """What must be known of a row alone: files of rows have no caption."""
    if point.leads:
        return [_LEADS, *point.notes]
    is_of_difference = point.extrapolated and point.half_width is not None
    return [*([_OF_DIFFERENCE] if is_of_difference else []), *point.notes]


def _whole(place: float | str) -> float | str:
    return int(place) if isinstance(place, float) and place.is_integer() else place


def place_text(found: Curves, x: float) -> str:
    """What stands at a point of the x axis, for people."""
    place = found.place(x)
    return place if isinstance(place, str) else f"{place:.10g}"


def columns_of(found: Curves) -> list[str]:
    """`COLUMNS`, the two axes under their names."""
    y = found.y if found.y != found.x else f"{found.y}_y"
    named = {"x": found.x if found.x not in COLUMNS else f"{found.x}_x", "y": y}
    return [named.get(column, column) for column in COLUMNS]


def curves_table(found: Curves) -> TextTable:
    """The points as a table for people."""
    cells = [
        (
            curve.label,
            place_text(found, point.x),
            number(point.y),
            "" if point.error is None else number(point.error),
            _of_difference(point),
        )
        for curve, point in each_point(found.curves)
    ]
    headings = ("curve", found.x_title, found.y_title, "± error", "± of the difference")
    caption = f"{found.y_title} against {found.x_title}; ± error is the standard error of sampling"
    if not found.extrapolates:
        return TextTable(caption, headings[:-1], [row[:-1] for row in cells], 1, found.lines)
    caption += ", ± of the difference half the interval of that from the leader"
    return TextTable(caption, headings, cells, 1, found.lines)


def _of_difference(point: Point) -> str:
    if point.leads:
        return "leads"
    return number(point.half_width) if point.extrapolated and point.half_width is not None else ""
