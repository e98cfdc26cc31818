"""Metrics with their errors, protocols and references, and lines to paste."""

from evalsuite.report.environment import fill
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part


def metrics(run: LoadedRun) -> Part:
    """Every result, by its number of samples."""
    return Part(fill("sections/metrics.html.j2", groups=run.groups))
