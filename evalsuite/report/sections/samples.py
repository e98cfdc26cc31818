"""The first samples of each class: fixed indices, chosen by nobody."""

from evalsuite.report.environment import fill
from evalsuite.report.grid import kind_of, sample_grid
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part


def samples(run: LoadedRun) -> Part:
    """A grid with a row for each of the first classes, and sheets of more that open on demand.

    Raises:
        CorruptionError: stored pixels are not the recorded ones.
    """
    grid = sample_grid(run, "samples")
    html = fill(
        "sections/samples.html.j2",
        plan=run.plan,
        kind=kind_of(run.plan),
        grid=grid,
        is_folded=bool(run.verdicts),
    )
    return Part(html, grid.files)
