"""The sections of a run's report, in their order on the page."""

from evalsuite.report.sections.asked import asked
from evalsuite.report.sections.classes import classes
from evalsuite.report.sections.cost import cost
from evalsuite.report.sections.features import features
from evalsuite.report.sections.influence import influence
from evalsuite.report.sections.metrics import metrics
from evalsuite.report.sections.neighbours import neighbours
from evalsuite.report.sections.part import Section
from evalsuite.report.sections.plan import plan
from evalsuite.report.sections.provenance import provenance
from evalsuite.report.sections.samples import samples
from evalsuite.report.sections.timeline import timeline
from evalsuite.report.sections.verdicts import verdicts

SECTIONS = (
    Section("asked", "Asked and measured", asked),
    Section("metrics", "Metrics", metrics),
    Section("samples", "Samples", samples),
    Section("verdicts", "Verdicts", verdicts),
    Section("influence", "Costly and helpful samples", influence),
    Section("classes", "Classes", classes),
    Section("neighbours", "Nearest reference images", neighbours),
    Section("features", "Features", features),
    Section("plan", "Plan", plan),
    Section("provenance", "Provenance", provenance),
    Section("timeline", "Timeline", timeline),
    Section("cost", "Cost", cost),
)
