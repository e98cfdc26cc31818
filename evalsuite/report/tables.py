"""Tables for papers and repositories: LaTeX, Markdown and CSV of the same cells.

What people wrote (names of models, tags) is escaped in each format.
"""

import csv
import io
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from evalsuite.artifacts.records import Record
from evalsuite.pipeline.comparison import Comparison, Row
from evalsuite.pipeline.comparison_words import amounts, closing, footnotes, records_of, statement
from evalsuite.report.summary import metric_rows, number, reference_lines


class TableFormat(StrEnum):
    """What a table can be written as."""

    LATEX = "latex"
    MARKDOWN = "markdown"
    CSV = "csv"


class TextTable(NamedTuple):
    """Cells as text.

    Attributes:
        caption: what stands above or below it.
        headings: of the columns.
        rows: as many cells each as there are headings.
        text_columns: how many columns from the left hold text; the others are numbers.
        notes: lines that must not be lost, such as daggers and caveats.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    notes: Sequence[str] = ()


def render(tables: Sequence[TextTable], to: TableFormat) -> str:
    """Tables one below the other, with a line end at the end.

    CSV has the caption in a first column where there are several tables, and no notes but a column
    of them where there are any.
    """
    if to is TableFormat.CSV:
        return _csv(tables)
    write = _latex if to is TableFormat.LATEX else _markdown
    return "\n".join(map(write, tables))


def metrics_as_table(records: Sequence[Record]) -> TextTable:
    """The metrics of one set of samples, as `evaluate` shows them."""
    cells = [
        (
            row.name,
            record.protocol_name or "",
            record.reference or "",
            record.protocol_id,
            row.value,
            row.error,
            row.extrapolated,
        )
        for row, record in zip(metric_rows(records), records, strict=True)
    ]
    headings = ["metric", "protocol", "reference", "protocol id"]
    headings += ["value", "± error", "at infinite N"]
    shown = len(headings) if any(cell[-1] for cell in cells) else len(headings) - 1
    cut = [cell[:shown] for cell in cells]
    notes = [f"{row.name}: {note}" for row in metric_rows(records) for note in row.notes]
    caption = "Metrics; ± is the standard error of sampling"
    return TextTable(caption, headings[:shown], cut, 4, [*notes, *reference_lines(records)])


def comparison_as_tables(found: Comparison) -> list[TextTable]:
    """One table for each input that was compared, with every dagger and caveat below it."""
    tables = []
    for entry in found.entries:
        rows = [row for row in found.rows if row.b.name == entry.name]
        if rows:
            tables.append(_pair(found, rows))
    return tables


def _pair(found: Comparison, rows: Sequence[Row]) -> TextTable:
    a, b = rows[0].a, rows[0].b
    cells = []
    for row in rows:
        value, width = ("", None) if row.difference is None else amounts(row.difference)
        mark = " †" if row.comparability.unknown else ""
        mark += " !" if row.comparability.caveats else ""
        refused = bool(row.comparability.refusals)
        cells.append(
            (
                row.meeting.a.display + mark,
                "" if row.difference is None or width is None else _kind(row),
                number(row.meeting.a.value),
                number(row.meeting.b.value),
                "refused" if refused else value or "undefined",
                width or "",
            )
        )
    lines = [line for row in rows for line in (statement(row), *footnotes(row.comparability))]
    lines += [*found.missing, *reference_lines(records_of(rows)), *closing(rows)]
    headings = ("metric", "interval", a.name, b.name, f"{b.name} - {a.name}", "± 95 %")
    caption = f"{a.name}: {a.where}; {b.name}: {b.where}"
    return TextTable(caption, headings, cells, 2, list(dict.fromkeys(lines)))


def _kind(row: Row) -> str:
    assert row.difference is not None
    return "paired" if row.difference.paired else "unpaired"


def _csv(tables: Sequence[TextTable]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    several = len(tables) > 1
    noted = any(table.notes for table in tables)
    for place, table in enumerate(tables):
        before, after = ([table.caption] if several else []), []
        if noted:
            after = [" | ".join(table.notes)]
        if place == 0 or tables[place - 1].headings != table.headings:
            headings = [*(["table"] if several else []), *table.headings]
            writer.writerow([*headings, *(["notes"] if noted else [])])
        writer.writerows([*before, *row, *after] for row in table.rows)
    return buffer.getvalue()


def _markdown(table: TextTable) -> str:
    rule = [" --- " if i < table.text_columns else " ---: " for i in range(len(table.headings))]
    lines = [f"**{escape_markdown(table.caption)}**", ""]
    lines += [_piped(map(escape_markdown, table.headings)), f"|{'|'.join(rule)}|"]
    lines += [_piped(map(escape_markdown, row)) for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {escape_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _piped(cells: "map[str]") -> str:
    return f"| {' | '.join(cells)} |"


def _latex(table: TextTable) -> str:
    """A table for the booktabs package."""
    text = table.text_columns
    columns = "l" * text + "r" * (len(table.headings) - text)
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering"]
    lines += [f"\\caption{{{escape_latex(table.caption)}}}", f"\\begin{{tabular}}{{{columns}}}"]
    lines += ["\\toprule", _tabbed(table.headings), "\\midrule"]
    lines += [_tabbed(row) for row in table.rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par\\footnotesize {escape_latex(note)}" for note in table.notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _tabbed(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + " \\\\"


_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "''",
    "±": "$\\pm$",
    "†": "$\\dagger$",
    "‡": "$\\ddagger$",
    "§": "\\S{}",
    "×": "$\\times$",
    "→": "$\\to$",
    "∞": "$\\infty$",
}


def escape_latex(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escape_latex("a_b ± 5 %")
    'a\\_b $\\pm$ 5 \\%'
    """
    return "".join(_LATEX.get(char, char) for char in _one_line(text))


def escape_markdown(text: str) -> str:
    r"""Text that Markdown shows as it is: no markup, no HTML, no end of a cell.

    >>> escape_markdown("<b>a|b_c")
    '&lt;b&gt;a\\|b\\_c'
    """
    plain = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain)


def _one_line(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if c.isprintable())
