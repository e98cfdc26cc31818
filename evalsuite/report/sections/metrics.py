"""Metrics with their errors, protocols and references, and lines to paste."""

from typing import NamedTuple

from evalsuite.report.environment import fill
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part
from evalsuite.report.summary import describe_run
from evalsuite.report.verdicts import VerdictSet


class _Score(NamedTuple):
    """A score of prompts, and the line to paste; empty where there is no score."""

    of: VerdictSet
    line: str

    @property
    def protocol_id(self) -> str:
        """The scorer and a digest of all that decides its rows, as the file is named."""
        return self.of.name.rpartition(".")[0].removesuffix(f"-{self.of.num_images}")


def metrics(run: LoadedRun) -> Part:
    """Every result, by its number of samples, and scores of prompts."""
    scores = [_Score(one, _line(run, one)) for one in run.verdicts]
    return Part(fill("sections/metrics.html.j2", groups=run.groups, scores=scores))


def _line(run: LoadedRun, of: VerdictSet) -> str:
    bar = of.overall
    if bar is None:
        return ""
    interval = (
        "" if bar.interval is None else f" (95 %: {bar.interval[0]:.4f} to {bar.interval[1]:.4f})"
    )
    value = f"{run.manifest.model}: {of.title} {bar.value:.4f}{interval}, {of.num_images} images"
    mixed = ["samples of MIXED numerics"] if len(run.numerics) > 1 else []
    return "; ".join([value, *describe_run(run.plan, of.num_images), *mixed])
