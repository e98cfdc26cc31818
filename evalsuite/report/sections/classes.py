"""Which classes a distance comes from: a heat map of all, and a table that sorts."""

from typing import NamedTuple

from evalsuite.metrics.decomposition import ClassShare
from evalsuite.report.environment import fill
from evalsuite.report.grid import kind_of
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.sections.part import Part

MOST_CELLS = 2000
"""Classes on the heat map; prompts may be more, and are in the table's ends alone."""
MOST_ROWS = 1000
"""Rows of the table of all classes."""
_EACH_END = 10
_FULL_COLOUR = 4.0
"""Standard errors from 0 at which a cell has its full colour."""


class _Cell(NamedTuple):
    """A class on the heat map: `strength` 0 to 1 of one of two colours."""

    text: str
    side: str
    strength: float


def classes(run: LoadedRun) -> Part | None:
    """Influence and contribution of every class; None where there is one class, or no values."""
    apart = run.taken_apart
    if apart is None or len(apart.shares) < 2:
        return None
    ordered = sorted(apart.shares, key=lambda share: (-share.influence, share.label))
    both_ends = len(ordered) > 2 * _EACH_END
    rows = [*ordered[:_EACH_END], *ordered[-_EACH_END:]] if both_ends else ordered
    cells = [_cell(run, share) for share in apart.shares]
    return Part(
        fill(
            "sections/classes.html.j2",
            record=apart.record,
            kind=kind_of(run.plan),
            plural="prompts" if run.plan.text else "classes",
            name_of=run.name_of,
            rows=rows,
            each_end=_EACH_END if both_ends else None,
            every=apart.shares[:MOST_ROWS] if both_ends else [],
            num_classes=len(ordered),
            cells=cells if len(cells) <= MOST_CELLS else [],
            full_colour=_FULL_COLOUR,
            total=sum(share.contribution for share in apart.shares),
        )
    )


def _cell(run: LoadedRun, share: ClassShare) -> _Cell:
    name = run.name_of(share.label)
    error = share.standard_error
    text = f"{kind_of(run.plan)} {share.label}" + (f" ({name})" if name is not None else "")
    text += f": {share.influence:+.4f}" + ("" if error is None else f" ± {error:.4f}")
    if error:
        strength = abs(share.influence) / error / _FULL_COLOUR
    else:  # no spread within the class, or a single sample, of which nothing is known
        strength = float(error is not None and share.influence != 0)
    side = "costs" if share.influence > 0 else "earns"
    return _Cell(text, side, round(min(1.0, strength), 3))
