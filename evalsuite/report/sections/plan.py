"""The plan: everything that decides a pixel."""

from evalsuite.report.environment import fill
from evalsuite.report.grid import GRID_CLASSES
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part


def plan(run: LoadedRun) -> Part:
    """A table of the plan's fields, and its canonical text."""
    return Part(
        fill(
            "sections/plan.html.j2",
            run=run,
            plan=run.plan,
            canonical_plan=run.plan.canonical.decode(),
            most_classes=GRID_CLASSES,
        )
    )
