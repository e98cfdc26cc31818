"""Templates of all pages: escaping, and how moments, durations and sizes are written."""

import base64
import functools
import hashlib
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evalsuite.report.summary import number


def page_environment() -> Environment:
    """Templates with escaping on, and the filters that pages share."""
    environment = Environment(
        loader=PackageLoader("evalsuite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "moment": moment,
        "duration": duration,
        "file_size": file_size,
        "count": lambda value: f"{value:,}",
    }
    return environment


@functools.cache
def _environment() -> Environment:
    return page_environment()


def fill(template: str, **values: Any) -> Markup:  # noqa: ANN401 - whatever the template shows
    """A template's HTML; values that are no Markup are escaped."""
    filled = _environment().get_template(template).render(**values)
    return Markup(filled)  # noqa: S704 - the templates escape


def script_sha256(template: str = "report.js") -> str:
    """The digest by which a page's own policy admits its one script and no other."""
    script = _environment().get_template(template).render()
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def moment(text: str) -> str:
    """`2026-01-31 12:00:00 UTC` of an ISO time; other text stays as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return text


def duration(seconds: float) -> str:
    """Seconds with the unit that reads best."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def file_size(num_bytes: int) -> str:
    """Bytes in decimal units."""
    size, units = float(num_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:,.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
