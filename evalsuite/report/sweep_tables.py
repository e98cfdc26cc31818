"""The rungs of a sweep as tables for papers: the numbers of its page in text formats."""

from collections.abc import Sequence

from evalsuite.errors import UsageError
from evalsuite.metrics.registry import METRICS
from evalsuite.report.rankings import EXTRAPOLATED
from evalsuite.report.summary import number
from evalsuite.report.tables import TextTable
from evalsuite.sweep.directory import SweepDirectory, SweepManifest
from evalsuite.sweep.tables import RungRow, RungTable

_WIDTHS = (
    "± error is the standard error; ± of the difference is half the interval of the difference from"
    " the leader, and all these intervals hold at once in 95 % of sweeps"
)


def rung_tables(directory: SweepDirectory) -> list[TextTable]:
    """A table for each decided rung, all with the same columns.

    Raises:
        UsageError: no rung is decided yet.
        CorruptionError: a rung cannot be read.
    """
    tables = directory.rungs()
    if not tables:
        raise UsageError(f"{directory.root}: no rung is decided yet, so there is no table")
    others = list(dict.fromkeys(name for one in tables for row in one.rows for name in row.others))
    return [_table(directory.manifest, table, others) for table in tables]


def _table(manifest: SweepManifest, table: RungTable, others: Sequence[str]) -> TextTable:
    display, count = manifest.display, f"{table.num_samples:,}"
    names = [METRICS[name].display if name in METRICS else name for name in others]
    headings = (
        *("configuration", "fate", display, "± error", "at infinite N"),
        *("behind", "± of the difference"),
        *(f"{manifest.prefix}{name}" for name in names),
    )
    how = f"{display} {EXTRAPOLATED}" if table.extrapolated else display
    too_few = "" if table.may_exclude else "; too few samples per feature dimension to drop any"
    caption = f"Rung of {count} samples, ranked by {how}{too_few}"
    rows = [_cells(row, others, extrapolated=table.extrapolated) for row in table.rows]
    return TextTable(caption, headings, rows, 2, [_WIDTHS])


def _cells(row: RungRow, others: Sequence[str], *, extrapolated: bool) -> tuple[str, ...]:
    is_ranked = row.ranked_by is not None and row.difference is not None
    return (
        row.name,
        row.fate,
        number(row.value),
        _known(row.standard_error),
        number(row.ranked_by) if extrapolated else "",
        f"{row.difference:+.4f}" if is_ranked else "",
        _known(row.half_width) if is_ranked else "",
        *(_known(row.others.get(name)) for name in others),
    )


def _known(value: float | None) -> str:
    return "" if value is None else number(value)
