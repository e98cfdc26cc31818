"""What the run cost: hours, energy, money, speed, bytes, by stage and by worker."""

from evalsuite.pipeline.spending import spent
from evalsuite.report.cost import run_cost
from evalsuite.report.environment import fill
from evalsuite.report.loaded import LONGEST_LIST, LoadedRun
from evalsuite.report.sections.part import Part


def cost(run: LoadedRun) -> Part:
    """Totals and tables."""
    wall_s = sum(one.seconds for one in run.invocations)
    return Part(
        fill(
            "sections/cost.html.j2",
            cost=run_cost(run.run, run.receipts, wall_s, run.records),
            spent=spent(run.run),
            invocations=run.invocations,
            scored=bool(run.records),
            longest_list=LONGEST_LIST,
        )
    )
