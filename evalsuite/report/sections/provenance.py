"""Where the samples come from: commands, invocations, repairs, software, numerics."""

from evalsuite.report.environment import fill
from evalsuite.report.invocations import software_of, unrecorded
from evalsuite.report.loaded import LONGEST_LIST, LoadedRun
from evalsuite.report.sections.part import Part


def provenance(run: LoadedRun) -> Part:
    """What it takes to make the run again, and who made it."""
    return Part(
        fill(
            "sections/provenance.html.j2",
            invocations=run.invocations,
            commands=list(dict.fromkeys(one.command for one in run.invocations)),
            unrecorded=unrecorded(run.receipts, run.invocations),
            software=software_of(run.invocations, run.records),
            numerics=run.numerics,
            longest_list=LONGEST_LIST,
        )
    )
