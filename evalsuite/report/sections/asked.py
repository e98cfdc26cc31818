"""What was asked and what was measured, in a few lines."""

from evalsuite.report.environment import fill
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part
from evalsuite.sampling.describe import describe_conditions, describe_dtype, describe_sampler


def asked(run: LoadedRun) -> Part:
    """The settings in words beside the numbers of the most samples."""
    plan, records = run.plan, run.groups[0].records if run.groups else []
    settings = [
        describe_conditions(plan),
        f"{plan.size[0]}x{plan.size[1]}",
        *describe_sampler(plan),
        describe_dtype(plan),
    ]
    names = (name for record in records for name in record.protocol_names)
    return Part(
        fill(
            "sections/asked.html.j2",
            run=run,
            settings=[text for text in settings if text],
            records=records,
            scores=run.verdicts,
            references=sorted({record.reference for record in records if record.reference}),
            protocols=[name for name in dict.fromkeys(names) if name],
        )
    )
