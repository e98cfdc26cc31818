"""The plan: everything that decides a pixel."""

from evalsuite.report.environment import fill
from evalsuite.report.grid import GRID_CLASSES
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part
from evalsuite.seeding import seeds_of


def plan(run: LoadedRun) -> Part:
    """A table of the plan's fields, and its canonical text."""
    return Part(
        fill(
            "sections/plan.html.j2",
            run=run,
            plan=run.plan,
            canonical_plan=run.plan.canonical.decode(),
            most_classes=GRID_CLASSES,
            seeds=_seeds(run),
        )
    )


def _seeds(run: LoadedRun) -> str:
    """`0..49999`: of the committed samples, or the first one where there are none yet."""
    first, stop = run.plan.first_seed, run.stop
    following = f"..{seeds_of(run.plan, stop - 1, stop)[0]}" if stop else " and following"
    is_shared = run.plan.text is not None and run.plan.text.seeds == "shared"
    return f"{first}{following}{', shared by all prompts' if is_shared else ''}"
