"""Verdicts on the images of a run of prompts: scores by tag, and what a detector found."""

from evalsuite.report.environment import fill
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part


def verdicts(run: LoadedRun) -> Part | None:
    """Bars beside published scores, and images with boxes, outlines and reasons; wrong ones first.

    Raises:
        CorruptionError: a file of verdicts or stored pixels cannot be trusted.
        DataError: verdicts are missing.
    """
    sets = run.verdicts
    if not sets:
        return None
    html = fill("sections/verdicts.html.j2", sets=sets)
    return Part(html, {path: content for one in sets for path, content in one.files.items()})
