"""`evalsuite compare`: differences of runs with their intervals, or why there are none."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, PLACE, POSITIVE
from evalsuite.cli.table_format import table_format_option
from evalsuite.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.pipeline.comparison import Comparison, Difference, Row
    from evalsuite.pipeline.comparison_inputs import Entry
    from evalsuite.pipeline.grouping import Grouping

_DECLARATION = re.compile(r"(?:(?P<target>.+):)?(?P<statement>[A-Za-z0-9_.]+=.*)")


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite compare runs/a runs/b runs/c --against runs/b\n"
    "  evalsuite compare run.json other.json --declare B:labels=balanced --json compared.json"
)
@click.argument("inputs", nargs=-1, required=True, type=PLACE)
@click.option("--against", metavar="INPUT", help="Compare the others with it [default: the first].")
@click.option("--num-samples", type=POSITIVE, help="Of which records [default: most in common].")
@click.option("--protocol", metavar="LIST", help="Only records of these named protocols.")
@click.option("--metrics", metavar="LIST", help="Only these [default: all].")
@click.option(
    "--declare",
    "declarations",
    multiple=True,
    metavar="[INPUT:]FIELD=VALUE",
    help="State labels, uint8 or codec of the inputs that lack it, or of INPUT.",
)
@click.option(
    "--allow", multiple=True, metavar="FIELD", help="Compare in spite of this, with the caveat."
)
@click.option(
    "--group-by", metavar="KEY", help="Group training seeds by a tag, model or plan field."
)
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
@table_format_option
def compare(inputs: "tuple[Place, ...]", json_path: Path | None, **values: Any) -> None:  # noqa: ANN401
    """Compare INPUTS: runs, or files that --json of `run` or `evaluate` wrote.

    Each metric is compared with the first input. Numbers by protocols that are known to differ are
    refused (exit code 3), and the field is named; where a field of the sampling is unknown the row
    has a dagger and is not ranked. Runs that share noise and labels give a paired interval.
    INPUT is a path as given, or the letter that the table shows: A, B, ...
    """
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.pipeline.comparability import canonical_field
    from evalsuite.pipeline.comparison import compare as compared
    from evalsuite.pipeline.comparison_inputs import letters, open_entry
    from evalsuite.pipeline.comparison_words import payload
    from evalsuite.pipeline.grouping import group_by, payload_of_groups

    check_json_target(json_path)
    if len(inputs) < 2:
        raise UsageError("give at least two inputs to compare")
    names = letters(len(inputs))
    entries = [open_entry(name, path) for name, path in zip(names, inputs, strict=True)]
    base = None if values["against"] is None else _entry_named(entries, values["against"])
    entries = _narrowed(entries, values)
    base = None if base is None else next(e for e in entries if e.name == base.name)
    allowed = {canonical_field(name) for text in values["allow"] for name in text.split(",")}
    show: Callable[[], None]
    if values["group_by"] is not None:
        if values["table_format"] is not None:
            raise UsageError("--format is for comparisons; groups are shown as text, or by --json")
        groups = group_by(entries, values["group_by"], base, allowed)
        content = payload_of_groups(groups)
        show = functools.partial(_show_groups, groups)
        refused = [row.display for row in groups.rows if row.comparability.refusals]
    else:
        found = compared(entries, base or entries[0], allowed)
        content = payload(found)
        show = functools.partial(_show, found)
        if values["table_format"] is not None:
            show = functools.partial(_print_tables, found, values["table_format"])
        refused = [row.meeting.a.display for row in found.rows if row.comparability.refusals]
    if json_path is not None:
        write_json(json_path, content)
    show()
    if refused:
        raise DataError(
            f"not compared: {', '.join(dict.fromkeys(refused))}; --allow FIELD prints a refused"
            " comparison with its caveat"
        )


def _print_tables(found: "Comparison", table_format: str) -> None:
    from evalsuite.report.tables import TableFormat, comparison_as_tables, render

    click.echo(render(comparison_as_tables(found), TableFormat(table_format)), nl=False)


def _entry_named(entries: "Sequence[Entry]", name: str) -> "Entry":
    for entry in entries:
        if name in {entry.name, entry.where}:
            return entry
    raise UsageError(f"no input is {name!r}: give its path or its letter, {entries[0].name}, ...")


def _narrowed(entries: "list[Entry]", values: dict[str, Any]) -> "list[Entry]":
    """Entries with declarations, and with only the records that were asked for."""
    from evalsuite.pipeline.comparability import parse_declaration
    from evalsuite.pipeline.comparison_inputs import (
        declare_in,
        of_count,
        of_metrics,
        of_protocols,
    )

    statements = []
    for text in values["declarations"]:
        match = _DECLARATION.fullmatch(text)
        if match is None:
            raise UsageError(f"--declare {text}: give [INPUT:]FIELD=VALUE")
        statements.append((match["target"], *parse_declaration(match["statement"])))
    entries = declare_in(entries, statements)
    if values["metrics"] is not None:
        entries = of_metrics(entries, _words(values["metrics"]))
    if values["protocol"] is not None:
        entries = of_protocols(entries, _words(values["protocol"]))
    if values["num_samples"] is not None:
        entries = of_count(entries, values["num_samples"])
    return entries


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _show(found: "Comparison") -> None:
    from evalsuite.pipeline.comparison_words import closing, plan_differences, records_of
    from evalsuite.report.summary import reference_lines

    _show_inputs(found.entries)
    for entry in found.entries:
        if entry.name == found.base.name:
            continue
        rows = [row for row in found.rows if row.b.name == entry.name]
        click.echo()
        pair, differing = f"{found.base.name} and {entry.name}", plan_differences(found.base, entry)
        if differing is None:
            _say(f"{pair}: not both were made by a plan, so what they differ in is unknown")
        else:
            _say(f"{pair} differ in {'; '.join(differing) or 'nothing'}")
        _show_rows(rows)
    warnings = reference_lines(records_of(found.rows))
    for line in (*found.missing, *warnings, *closing(found.rows)):
        _say(line)


def _show_inputs(entries: "Sequence[Entry]") -> None:
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        tags = [f"{key}={value}" for key, value in sorted(entry.tags.items())]
        about = "; ".join([*([entry.model] if entry.model else []), *tags])
        _say(f"{entry.name:{width}}  {entry.where}{f'  ({about})' if about else ''}")


def _show_rows(rows: "Sequence[Row]") -> None:
    from evalsuite.pipeline.comparison_words import amounts, footnotes, refusal, statement
    from evalsuite.report.summary import number

    if not rows:
        return
    a, b = rows[0].a.name, rows[0].b.name
    cells = []
    for row in rows:
        value, width = ("", None) if row.difference is None else amounts(row.difference)
        mark = " †" if row.comparability.unknown else ""
        mark += " !" if row.comparability.caveats else ""
        cells.append(
            (
                row.meeting.a.display + mark,
                number(row.meeting.a.value),
                number(row.meeting.b.value),
                _difference_cell(row, value),
                "-" if width is None else f"± {width}",
                _kind_cell(row.difference),
            )
        )
    _print_table(("metric", a, b, f"{b} - {a}", "95 %", ""), cells)
    refusals = {r.meeting.a.display: refusal(r) for r in rows if r.comparability.refusals}
    for text, displays in _by_line(refusals.items()):
        _say(f"  {', '.join(displays)}: {text}")
    for row in rows:
        if not row.comparability.refusals:
            _say(f"  {statement(row)}")
    lines = [
        (row.meeting.a.display, line)
        for row in rows
        for line in (*footnotes(row.comparability), *filter(None, [row.meeting.chosen]))
    ]
    for text, displays in _by_line(lines):
        few = "" if len(displays) == len(rows) else f"{', '.join(displays)}: "
        _say(f"  {few}{text}")


def _by_line(found: "Iterable[tuple[str, str]]") -> "list[tuple[str, list[str]]]":
    """Each line once, with the metrics that it is about."""
    lines: dict[str, list[str]] = {}
    for display, line in found:
        lines.setdefault(line, []).append(display)
    return list(lines.items())


def _kind_cell(difference: "Difference | None") -> str:
    if difference is None or difference.half_width is None:
        return ""
    return "paired" if difference.paired else "unpaired"


def _difference_cell(row: "Row", value: str) -> str:
    if row.comparability.refusals:
        return "refused"
    return value or "undefined"


def _show_groups(found: "Grouping") -> None:
    from evalsuite.pipeline.comparison_words import footnotes
    from evalsuite.pipeline.grouping import group_statement
    from evalsuite.report.summary import number, reference_lines

    for name, members in found.members.items():
        _say(f"{found.key}={name}: {', '.join(entry.where for entry in members)}")
    cells = []
    for row in found.rows:
        for group in row.groups:
            spread = "-" if group.spread is None else number(group.spread)
            seeds = str(len(group.seed_values))
            cells.append((row.display, group.name, number(group.mean), spread, seeds))
    click.echo()
    _print_table(("metric", found.key, "mean", "spread", "training seeds"), cells)
    for row in found.rows:
        for place in range(1, len(row.groups)):
            _say(f"  {group_statement(row, place)}")
    lines = [(row.display, line) for row in found.rows for line in footnotes(row.comparability)]
    for text, displays in _by_line(lines):
        _say(f"  {', '.join(displays)}: {text}")
    scored = [r for group in found.members.values() for e in group for r in e.records]
    compared = {row.metric for row in found.rows}
    warnings = reference_lines(r for r in scored if r.metric in compared)
    for line in (*found.missing, *warnings, *found.notes):
        _say(line)


def _say(line: str) -> None:
    """A line on stdout; tags and names that someone else wrote cannot steer the terminal."""
    click.echo(printable(line))


def _print_table(headings: "Sequence[str]", cells: "Sequence[Sequence[str]]") -> None:
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if place > 0 else "left")
    for row in cells:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False).print(
        table
    )
