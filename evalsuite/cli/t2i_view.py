"""What commands print of text-to-image scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.errors import UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place


UNTESTED = (
    "the detector was not tested on a photograph: random weights would pass too; the same command"
    " without `--known-picture none` tests it, and judges nothing again"
)
_LEAST, _MOST = 0.01, 1e6
"""What four decimals suit: of smaller numbers they show two digits or none."""


def print_summary(rows: "Place", csv: Path | None, json_path: Path | None) -> dict[str, Any]:
    """Sum up a file of rows, print it and give it."""
    from evalsuite.cli.output import write_json
    from evalsuite.pipeline import dpg_run, geneval_run, prompt_scores
    from evalsuite.pipeline.row_file import benchmark_of

    found: dict[str, Any]
    benchmark = benchmark_of(rows)
    refuse_csv(rows, benchmark, csv)
    if benchmark == "dpg":
        found = dpg_run.summary_of(rows, csv_of(rows, csv))
        _print_dpg(found)
    elif benchmark == "scores":
        found = prompt_scores.summary_of(rows)
        _print_scores(found)
    else:
        found = geneval_run.summary_of(rows)
        _print_geneval(found)
    if json_path:
        write_json(json_path, found)
    return found


def refuse_csv(rows: "Place", benchmark: str, csv: Path | None) -> None:
    """Raise UsageError when DPG-Bench's questions were given for rows of another benchmark."""
    if csv is not None and benchmark != "dpg":
        raise UsageError(f"{rows} holds rows of {benchmark}: --dpg-csv is of DPG-Bench's answers")


def csv_of(rows: "Place", csv: Path | None) -> Path:
    """DPG-Bench's questions, which its answers need.

    Raises:
        UsageError: they were not given.
    """
    if csv is None:
        raise UsageError(f"{rows} holds answers of DPG-Bench: give --dpg-csv")
    return csv


def _print_geneval(found: dict[str, Any]) -> None:
    """Tags with intervals, overall, and whose score it is."""
    for tag, one in found["tags"].items():
        counts = f"{one['correct']} of {one['images']}"
        click.echo(f"{printable(tag):16} {one['score']:.4f}  {interval(one):22} {counts}")
    overall = found["overall_estimate"]
    click.echo(f"{'overall':16} {found['overall']:.4f}  {interval(overall)}")
    alone = [tag for tag, one in found["tags"].items() if one["num_prompts"] == 1]
    if alone:
        words = "one prompt alone tells nothing of others, so it and overall have no interval"
        click.echo(f"{', '.join(map(printable, alone))}: {words}")
    click.echo(
        f"{printable(found['display'])}: {found['total_images']} images of"
        f" {overall['num_prompts']} prompts; intervals are of 95 %, by prompt"
    )
    if found["tested_by"] is None:
        click.echo(UNTESTED)


def _print_dpg(found: dict[str, Any]) -> None:
    for name in ("official", "corrected"):
        one = found[name]
        if "refused" in one:
            click.echo(f"{name:10} refused: {one['refused']}")
            continue
        click.echo(f"{name:10} {one['overall']:.2f}  {interval(one)}  {one['num_prompts']} prompts")
        for key, value in one["categories"].items():
            known = one.get("category_intervals", {}).get(key)
            bounds = interval({"interval": known})
            click.echo(f"{'':10} {printable(key):10} {value:6.2f}  {bounds}".rstrip())
    click.echo(f"{printable(found['display'])}: of official, {found['official']['note']}")
    neither = found["answers_neither_yes_nor_no"]
    if neither:
        click.echo(f"{neither} answers are neither yes nor no, and count as no")


def _print_scores(found: dict[str, Any]) -> None:
    for name, one in found["categories"].items():
        click.echo(f"{printable(name):16} {_with_interval(one['score'], one)}")
    click.echo(f"{'mean':16} {_with_interval(found['overall'], found['overall_estimate'])}")
    click.echo(
        f"{printable(found['display'])}: {found['total_images']} images of"
        f" {found['total_prompts']} prompts; intervals are of 95 %, by prompt"
    )


def difference_line(name: str, one: dict[str, Any]) -> str:
    """A difference with its interval, or why there is none."""
    return f"{name:16} {_with_interval(one['difference'], one, sign='+')}"


def _with_interval(value: float, one: dict[str, Any], sign: str = "") -> str:
    """A number of any size with its interval, in one notation, or why there is none."""
    largest = max(abs(value), *map(abs, one["interval"] or (0.0,)))
    notation = ".4f" if largest == 0 or _LEAST <= largest < _MOST else ".3e"
    reason = "no interval: one prompt alone tells nothing of others"
    if one["standard_error"] is not None:
        reason = "no interval: it is the same for every prompt, up to rounding"
    return f"{value:{sign}{notation}}  {interval(one, notation) or reason}"


def interval(one: dict[str, Any], notation: str = ".4f") -> str:
    """`(0.1 to 0.2)`, or nothing where there is none."""
    found = one.get("interval")
    return "" if found is None else f"({found[0]:{notation}} to {found[1]:{notation}})"
