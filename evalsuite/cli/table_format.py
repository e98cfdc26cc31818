"""`--format`: the tables of a command as LaTeX, Markdown or CSV."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

FORMATS = ("latex", "markdown", "csv")
F = TypeVar("F", bound=Callable[..., Any])


def table_format_option(function: F) -> F:
    """Add `--format`, passed as `table_format`."""
    option = click.option(
        "--format",
        "table_format",
        type=click.Choice(FORMATS),
        help="Print a table for a paper instead, with its notes.",
    )
    return option(function)
