"""`evalsuite selftest`: do published files give their published numbers here?"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.options import PATH, device_option
from evalsuite.errors import DataError

if TYPE_CHECKING:
    from evalsuite.pipeline.selftest import Row


@click.command(
    epilog="Examples:\n\n\b\n  evalsuite selftest adm-256 --files ~/adm\n"
    "  evalsuite selftest adm-256 --allow-unverified --json selftest.json"
)
@click.argument("name", metavar="NAME|SELFTEST.yaml")
@click.option("--files", type=PATH, help="Folder with the published files [default: download].")
@click.option(
    "--allow-unverified", is_flag=True, help="Download files whose SHA-256 nobody has published."
)
@device_option
@click.option("--json", "json_path", type=PATH, help="Write the result here.")
def selftest(
    name: str, files: Path | None, allow_unverified: bool, device: str, json_path: Path | None
) -> None:
    """Evaluate published samples against their reference, and compare with the published numbers.

    Until it has passed on an installation, `evaluate` says that parity on the real files is not
    confirmed there. Exit code 3 when a number is too far off.
    """
    from evalsuite.cli.output import check_json_target, write_json
    from evalsuite.config import ExtractorSpec, SelftestSpec, load_spec
    from evalsuite.pipeline.numerics import resolve_device
    from evalsuite.pipeline.parity import score_files
    from evalsuite.pipeline.selftest import find_files, installation, record, run_selftest

    check_json_target(json_path)
    spec = load_spec(SelftestSpec, name)
    extractor_id = load_spec(ExtractorSpec, spec.extractor).extractor_id
    identity = installation(extractor_id, resolve_device(device), spec.protocol)
    found = find_files(spec, files, allow_unverified=allow_unverified)
    rows = run_selftest(
        spec,
        found,
        lambda samples, reference, graph: score_files(
            samples, reference, graph, spec, resolve_device(device)
        ),
    )
    if json_path is not None:
        write_json(json_path, _payload(spec.name, identity, rows))
    _show(rows)
    click.echo(f"source: {spec.source}")
    if not record(spec, identity, rows, found):
        off = ", ".join(row.metric for row in rows if not row.passed)
        raise DataError(f"self-test {spec.name} has not passed: {off} further off than tolerated")


def _payload(name: str, identity: dict[str, str], rows: list["Row"]) -> dict[str, Any]:
    shown = [{**row._asdict(), "got": _plain(row.got)} for row in rows]
    passed = all(row.passed for row in rows)
    return {"selftest": name, "passed": passed, "installation": identity, "rows": shown}


def _plain(value: float) -> float | str:
    """NaN and infinities as text, which JSON has no numbers for."""
    return value if math.isfinite(value) else str(value)


def _show(rows: list["Row"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for heading in ("expected", "got", "tolerance"):
        table.add_column(heading, justify="right")
    table.add_column("result")
    for row in rows:
        numbers = (f"{row.expected:.8g}", f"{row.got:.8g}", f"{row.tolerance:.2g}")
        table.add_row(row.metric, *numbers, "pass" if row.passed else "FAIL")
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
