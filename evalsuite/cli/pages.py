"""Parts of the pages and tables that several commands print for a person."""

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

GAP = 2
"""Blanks between two columns."""


def print_section(console: Console, title: str) -> None:
    """A bold line after an empty one."""
    console.print()
    console.print(Text(title, style="bold"))


def print_line(console: Console, text: str, indent: int = 2) -> None:
    """A line, folded where the console ends."""
    console.print(Padding(Text(text, overflow="fold"), (0, 0, 0, indent), expand=False))


def print_columns(
    console: Console,
    columns: Mapping[str, Sequence[str]],
    *,
    right: Collection[str] = (),
    remark: tuple[str, Sequence[str]] | None = None,
) -> None:
    """A table without lines; the last columns are left out where the console is too narrow.

    Args:
        console: where to.
        columns: title and cells.
        right: titles of those that stand to the right.
        remark: a last column, cut to the room that is left where all others stand and there is
            room enough to say something.
    """
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    used = 0
    shown: list[Sequence[str]] = []
    for title, cells in columns.items():
        used += max(len(text) for text in (title, *cells)) + (GAP if used else 0)
        if used > console.width and shown:
            break
        table.add_column(title, no_wrap=True, justify="right" if title in right else "left")
        shown.append(cells)
    room = console.width - used - 2 * GAP
    if remark is not None and len(shown) == len(columns) and room > _LEAST_REMARK:
        title, cells = remark
        table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=room)
        shown.append(cells)
    for row in zip(*shown, strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


_LEAST_REMARK = 30
