"""What a part of the benchmark found: a table for a person, and the same for a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contestants import Timing, ratio

GB = 1e9


@dataclass
class Table:
    """One part's figures.

    Attributes:
        title: what was measured, on what.
        rows: one for each way; all have the same columns.
        notes: sentences below.
        rounds: seconds of each round by way, for the file.
    """

    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def text(self) -> str:
        """As it is printed."""
        cells = [list(self.rows[0])] + [[_shown(v) for v in row.values()] for row in self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([f"\n{self.title}", *lines, *(f"  {note}" for note in self.notes)])

    def kept(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "title": self.title,
            "rows": self.rows,
            "notes": self.notes,
            "rounds": self.rounds,
        }


def compared(
    title: str,
    timings: Mapping[str, Timing],
    ours: str,
    *,
    images: int | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Table:
    """A table of alternated ways with the ratio of each to ours, above 1 where ours is faster.

    Args:
        title: of the table.
        timings: by name.
        ours: the name that the others are compared with.
        images: done in each round, for a column of images/s.
        facts: more columns, by name of the way.
    """
    base = timings[ours]
    rows = []
    for name, timing in timings.items():
        relative = ratio(timing, base)
        rate = {} if images is None else {"images/s": images / timing.wall_s}
        rows.append(
            {"way": name, **rate, "s": timing.wall_s, "CPU s": timing.cpu_s}
            | {"peak GB": timing.peak_bytes / GB, "x s": relative.wall, "x CPU s": relative.cpu}
            | {"x peak": timing.peak_bytes / base.peak_bytes}
            | dict((facts or {}).get(name, {}))
        )
    return Table(title, rows, [f"x: of this way over {ours}"], rounds_of(timings.values()))


def rounds_of(timings: Sequence[Timing] | Any) -> dict[str, list[dict[str, float]]]:
    """Every round of every way, rounded to what a clock can tell."""
    return {
        timing.name: [
            {key: round(value, 4) for key, value in usage._asdict().items()}
            for usage in timing.rounds
        ]
        for timing in timings
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
