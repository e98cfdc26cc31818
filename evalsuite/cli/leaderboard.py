"""`evalsuite leaderboard`: a board of results beside published claims, and the check of records."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, PLACE
from evalsuite.cli.table_format import FORMATS
from evalsuite.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.config import Claim
    from evalsuite.pipeline.comparison_inputs import Entry
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
    help="Also FID against compute as files, one for each group; may be repeated.",
)
def build(
    runs: "tuple[Place, ...]",
    published: str | None,
    metrics: str | None,
    output: Path,
    formats: tuple[str, ...],
    figures: tuple[str, ...],
) -> None:
    """Write a board of RUNS, or of files and folders of records, beside published claims.

    Leaves index.html, leaderboard.csv, leaderboard.parquet and reproductions.csv in a folder; equal
    input gives equal files, and files of an earlier board that are not among them go away. Rows are
    grouped by protocol and have places within their group only; a record that was edited by hand is
    refused, and a run that has no results yet is said and left out.
    """
    from evalsuite.artifacts.storage import LocalStorage
    from evalsuite.pipeline.comparison_inputs import of_metrics
    from evalsuite.pipeline.leaderboard import build_board
    from evalsuite.report import board
    from evalsuite.report.board_folder import write_board
    from evalsuite.report.board_page import render_board
    from evalsuite.report.tables import TableFormat, render

    claims = _claims(published)
    entries = _entries(runs)
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
        files |= _figures(sections, to)
    write_board(LocalStorage(output), files)
    _say_groups(sections)
    for name in files:
        click.echo(str(output / name))


def _entries(places: "tuple[Place, ...]") -> "list[Entry]":
    """What is ranked; a glob over runs finds those that are still in progress too."""
    from evalsuite.cli.output import notice
    from evalsuite.pipeline.comparison_inputs import entries_for_board

    entries: list[Entry] = []
    for place in places:
        found = entries_for_board(place, _left_out)
        if not found:
            notice(f"left out: {place} has no numbers yet")
        entries += found
    if places and not entries:
        raise DataError("no input has numbers yet: `evalsuite evaluate RUN` makes those of a run")
    return entries


def _left_out(line: str) -> None:
    from evalsuite.cli.output import notice

    notice(f"left out: {line}")


def _claims(published: str | None) -> "tuple[Claim, ...]":
    from evalsuite.config import load_claims

    if published == "none":
        return ()
    return load_claims(None if published is None else Path(published))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _figures(sections: "list[Section]", to: str) -> dict[str, bytes]:
    """Files of the groups of FID that have something to plot, named by titles and group ids."""
    from evalsuite.report.board import RESULT, plotted
    from evalsuite.report.figures import figure_against

    members: dict[str, list[dict[str, Any]]] = {}
    for section in sections:
        for row, titles in plotted([section]) if section.metric == "fid" else ():
            for title in titles:
                members.setdefault(title, []).append(row)
    found = {}
    for title, rows in members.items():
        if any(row["compute"] is not None for row in rows):
            group = rows[0]["group"] if rows[0]["kind"] == RESULT else title
            name = f"{_slug(title)[:60]}-{hashlib.sha256(group.encode()).hexdigest()[:8]}"
            label = title.partition(",")[0]
            found[f"{name}.{to}"] = figure_against(rows, title, "compute", to, label)
    return found


def _slug(text: str) -> str:
    words = "".join(c.lower() if c.isascii() and c.isalnum() else " " for c in text)
    return "-".join(words.split())


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
    and plan say of each other, and whether two files give one plan two values, or two errors.
    Prints each fault; exits with 3 when there is one.
    """
    from evalsuite.cli.output import check_json_target, notice, write_json
    from evalsuite.pipeline.record_files import files_of
    from evalsuite.pipeline.submissions import check_submissions

    check_json_target(json_path)
    given = {path: files_of(path, _left_out) for path in files}
    for path in (path for path, held in given.items() if not held):
        notice(f"left out: {path} has no records yet")
    found = check_submissions(file for held in given.values() for file in held)
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
