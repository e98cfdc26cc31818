"""What to say beside an interval where replicates of real images have shown that such ones miss."""

from evalsuite.config.interval_coverage import CoverageCells, coverage_table

_BEGINS = "95 % intervals of "
TOO_LOW_PERCENT = 90.0
"""A kind of interval of which some cell held the truth no more often is said to be perhaps too
narrow. Of 40 replicates chance makes one such cell in seven, of 80 one in twenty; a needless word
of caution costs less than a needless claim."""
TOO_HIGH_PERCENT = 98.0
"""A kind of interval that held the truth more often on average is said to be too wide."""


def interval_note(metric: str, num_samples: int, *, balanced: bool, paired: bool) -> str | None:
    """A note for an interval that is of a kind that missed; None where none such was measured.

    Args:
        metric: name in the registry.
        num_samples: N.
        balanced: whether the error is that within classes, each with as many samples.
        paired: whether the interval is of a difference whose noise is shared.
    """
    for cells in coverage_table().cells:
        asked = (metric, "pair" if paired else "set", "balanced" if balanced else "random")
        if (cells.metric, cells.of, cells.labels) == asked and num_samples <= cells.largest:
            return _note(cells)
    return None


def is_interval_note(note: str) -> bool:
    """Whether a record's note is one of `interval_note`."""
    return note.startswith(_BEGINS)


def _note(cells: CoverageCells) -> str | None:
    low, mean, high = cells.covered_percent
    narrow, wide = cells.reported_over_observed
    if low <= TOO_LOW_PERCENT:
        verdict = f"this one may be too narrow, by up to {100 * (1 - narrow):.0f} %"
    elif mean >= TOO_HIGH_PERCENT:
        verdict = f"this one may be too wide, up to {wide:.2g} times"
    else:
        return None
    of = "paired differences of " if cells.of == "pair" else ""
    return (
        f"{_BEGINS}{of}{cells.metric} held the truth {low:.0f} to {high:.0f} % of the"
        f" time (on average {mean:.0f}) at N = {cells.smallest} to {cells.largest}, {cells.labels}"
        f" labels ({coverage_table().source}): {verdict}"
    )
