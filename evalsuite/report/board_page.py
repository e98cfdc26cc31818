"""The page of a leaderboard: one HTML file that needs no network, plots by an embedded plotly."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.claims import guidance_text
from evalsuite.pipeline.comparison_words import RETRAINING_PERCENT
from evalsuite.pipeline.leaderboard import Section
from evalsuite.report.board import (
    CLAIM,
    RESULT,
    compute_of,
    place_text,
    plotted,
    remarks,
    replicates_text,
    reproductions,
    settings_text,
    signed_name,
)
from evalsuite.report.environment import page_environment

AXES = {
    "compute": "parameters × NFE, in 10⁹",
    "nfe": "evaluations along the solver",
    "params_m": "parameters, millions",
    "gpu_hours": "GPU-hours of the run",
}
"""What a figure of merit is plotted against; keys are columns of the board's table."""
_PLOTTED = (
    *("kind", "model", "value", "standard_error", "num_samples"),
    *(*AXES, "guidance", "resolution", "unknown", "declared", "mixed_numerics"),
)


def render_board(sections: Sequence[Section]) -> str:
    """The page as HTML; unchanged content gives unchanged text."""
    environment = page_environment()
    environment.filters |= {"guidance": guidance_text, "compute": compute_of, "day": _day}
    points = plotted(sections)
    rows = [one.row for one in points]
    metrics = list(dict.fromkeys(section.metric for section in sections))
    return environment.get_template("leaderboard.html.j2").render(
        sections=sections,
        beside=reproductions(sections),
        metrics={name: METRICS[name].display if name in METRICS else name for name in metrics},
        resolutions=sorted({row["resolution"] for row in rows if row["resolution"]}),
        num_results=sum(row["kind"] == RESULT for row in rows),
        num_claims=sum(row["kind"] == CLAIM for row in rows),
        axes=AXES,
        percent=RETRAINING_PERCENT,
        points=[
            {"figures": one.figures, **{name: one.row[name] for name in (*_PLOTTED, "metric")}}
            for one in points
        ],
        place=place_text,
        remarks=remarks,
        signed_name=signed_name,
        replicates_text=replicates_text,
        settings_text=settings_text,
        **page_scripts(environment, "leaderboard.js"),
    )


def page_scripts(environment: Environment, name: str) -> dict[str, Any]:
    """Plotly and the page's own script, and the digests by which its policy admits them alone."""
    from plotly.offline import get_plotlyjs

    plotly = get_plotlyjs().replace("\r\n", "\n")
    own = environment.get_template(name).render()
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (plotly, own)
    ]
    return {
        "plotly": Markup(plotly),  # noqa: S704 - the library's own text
        "script": Markup(own),  # noqa: S704 - ours, without a value in it
        "script_sha256": digests,
    }


def _day(text: str) -> str:
    """`2026-01-31` of an ISO time; other text stays as it is."""
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        return text
