"""`evalsuite leaderboard`: a board of results beside published claims, and the check of records."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, PLACE
from evalsuite.cli.table_format import FORMATS
from evalsuite.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.config import Claim
    from evalsuite.pipeline.leaderboard import Section

_EXTENSIONS = {"latex": "tex", "markdown": "md"}
"""Of the files of tables; `leaderboard.csv` is always written."""
_FIGURES = ("png", "pdf", "svg")


@click.group(
    epilog="Examples:\n\n\b\n  evalsuite leaderboard build runs/* --output board\n"
    "  evalsuite leaderboard check records/*.json"
)
def leaderboard() -> None:
    """Results beside published claims, ranked within one protocol only."""


@leaderboard.command(
    epilog="Examples:\n\n\b\n  evalsuite leaderboard build runs/* --output board\n"
    "  evalsuite leaderboard build a.json --published none --figures pdf --output board"
)
@click.argument("runs", nargs=-1, type=PLACE)
@click.option(
    "--published", metavar="FILE", help="CSV of claims, or none [default: those that are shipped]."
)
@click.option("--metrics", metavar="LIST", help="Only these [default: all].")
@click.option("--output", type=PATH, required=True, help="Folder for the files.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="Also tables for papers: leaderboard.tex or .md; may be repeated.",
)
@click.option(
    "--figures",
    multiple=True,
    type=click.Choice(_FIGURES),
    help="Also FID against compute as files, one for each protocol; may be repeated.",
)
def build(
    runs: "tuple[Place, ...]",
    published: str | None,
    metrics: str | None,
    output: Path,
    formats: tuple[str, ...],
    figures: tuple[str, ...],
) -> None:
    """Write a board of RUNS, or of files that --json wrote, beside published claims.

    Leaves index.html, leaderboard.csv, leaderboard.parquet and reproductions.csv in a folder; equal
    input gives equal files. Rows are grouped by protocol and have places within their group only; a
    record that was edited by hand is refused.
    """
    from evalsuite.artifacts.storage import LocalStorage
    from evalsuite.pipeline.comparison_inputs import letters, of_metrics, open_entry
    from evalsuite.pipeline.leaderboard import build_board
    from evalsuite.report import board
    from evalsuite.report.board_page import render_board
    from evalsuite.report.tables import TableFormat, render

    claims = _claims(published)
    names = letters(len(runs))
    entries = [open_entry(name, path) for name, path in zip(names, runs, strict=True)]
    if metrics is not None and entries:
        entries = of_metrics(entries, _words(metrics))
    sections = build_board(entries, claims)
    if metrics is not None:
        sections = [section for section in sections if section.metric in _words(metrics)]
    if not sections:
        raise UsageError(f"--metrics {metrics}: neither a record nor a claim has one of them")
    rows, beside = board.flat_rows(sections), board.reproductions(sections)
    files = {
        "index.html": render_board(sections).encode("utf-8", "replace"),
        "leaderboard.csv": board.to_csv(rows, list(board.SCHEMA)).encode(),
        "leaderboard.parquet": board.to_parquet(rows),
        "reproductions.csv": board.to_csv(
            board.reproduction_rows(beside), board.REPRODUCTION_COLUMNS
        ).encode(),
    }
    for to in dict.fromkeys(formats):
        if to != "csv":
            text = render(board.board_tables(sections), TableFormat(to))
            files[f"leaderboard.{_EXTENSIONS[to]}"] = text.encode()
    for to in dict.fromkeys(figures):
        files |= _figures(rows, sections, to)
    storage = LocalStorage(output)
    for name, content in files.items():
        storage.replace(name, content)
    _say_groups(sections)
    for name in files:
        click.echo(str(output / name))


def _claims(published: str | None) -> "tuple[Claim, ...]":
    from evalsuite.config import load_claims

    if published == "none":
        return ()
    return load_claims(None if published is None else Path(published))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _figures(rows: list[dict[str, Any]], sections: "list[Section]", to: str) -> dict[str, bytes]:
    """Files of the sections that have something to plot, named by their titles."""
    from evalsuite.report.figures import figure_against

    found = {}
    for section in sections:
        ours = [row for row in rows if row["section"] == section.title]
        if section.metric == "fid" and any(row["compute"] is not None for row in ours):
            words = "".join(
                c.lower() if c.isascii() and c.isalnum() else " " for c in section.title
            )
            name = "-".join(words.split())[:80]
            label = section.title.partition(",")[0]
            found[f"{name}.{to}"] = figure_against(rows, section.title, "compute", to, label)
    return found


def _say_groups(sections: "list[Section]") -> None:
    from evalsuite.cli.output import notice

    results = sum(len(group.rows) for section in sections for group in section.groups)
    groups = sum(len(section.groups) for section in sections)
    claims = sum(len(group.rows) for section in sections for group in section.claims)
    notice(
        f"{results} results in {groups} groups by protocol, {claims} claimed figures beside them"
    )
    if groups > 1:
        notice("groups are not ranked against each other: their protocols are not the same")


@leaderboard.command(
    epilog="Examples:\n\n\b\n  evalsuite leaderboard check records/*.json\n"
    "  evalsuite leaderboard check records --json checked.json"
)
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def check(files: tuple[Path, ...], json_path: Path | None) -> None:
    """Check records in FILES, or in folders of them, as a repository of records does in its CI.

    The form, every hash that can be computed again (record, protocol, plan), what record, protocol
    and plan say of each other, and whether two files give one plan two values. Prints each fault;
    exits with 3 when there is one.
    """
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.pipeline.submissions import check_submissions

    check_json_target(json_path)
    found = check_submissions(files)
    if json_path is not None:
        listed = [
            {
                "where": one.where,
                "display": one.record.display if one.record else None,
                "faults": list(one.faults),
            }
            for one in found
        ]
        write_json(json_path, {"records": listed})
    for one in found:
        about = one.record.display if one.record else "unreadable"
        if not one.faults:
            click.echo(printable(f"ok     {one.where}: {about}"))
        for fault in one.faults:
            click.echo(printable(f"FAULT  {one.where}: {about}: {fault}"))
    bad = sum(bool(one.faults) for one in found)
    if bad:
        raise DataError(f"{bad} of {len(found)} records have faults: score them again, do not edit")
