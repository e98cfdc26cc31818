"""What commands show: progress and notices on stderr, results on stdout."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.storage import LocalStorage, explained
from evalsuite.errors import StorageError, printable
from evalsuite.report.summary import metric_rows, reference_lines

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.runtime.progress import Progress as Standing

_LINE_EVERY_S = 10.0


def notice(message: str) -> None:
    """A line for the person, on stderr."""
    click.echo(f"evalsuite: {message}", err=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result whole."""
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Replace a file, whole; a link is followed, and a device or a pipe is written into."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        with explained(target, "write"):
            target.write_bytes(content)
        return
    LocalStorage(target.parent).replace(target.name, content)


def check_json_target(path: Path | None) -> None:
    """Refuse a --json that could not be written at the end."""
    if path is None:
        return
    if not is_writable_file(path):
        raise StorageError(
            f"--json {path} cannot be written: its folder must exist and be writable"
        )


def check_rows_target(place: "Place | None") -> None:
    """Refuse an --output that could not be written once all images are judged."""
    if isinstance(place, Path) and place.is_dir():
        raise StorageError(f"--output {place} is a folder: give a file for what is found")


def is_writable_file(path: Path) -> bool:
    """Whether a file could be written there: no folder, no loop of links, in a folder of ours."""
    parent = path.absolute().parent
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return not path.is_dir() and parent.is_dir() and os.access(parent, os.W_OK)


def metrics_table(records: Sequence[Record]) -> None:
    """The metrics with their errors, on stdout; notes below."""
    rows = metric_rows(records)
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("± error", justify="right")
    extrapolated = any(row.extrapolated for row in rows)
    if extrapolated:
        table.add_column("N → ∞", justify="right")
    table.add_column("protocol")
    for row, record in zip(rows, records, strict=True):
        cells = [row.name, row.value, row.error or "-"]
        cells += [row.extrapolated or "-"] if extrapolated else []
        table.add_row(*cells, record.protocol_id)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    for row in rows:
        for note in row.notes:
            console.print(f"  {row.name}: {note}", markup=False, soft_wrap=True)
    _say_of_references(console, records)


def metrics_tables(records: Sequence[Record]) -> None:
    """One table of a single protocol's metrics; of several, one table with a column for each."""
    if any(r.provenance.get("parity_confirmed", "") is None for r in records):
        notice(
            "parity with ADM's evaluator on its published files is not confirmed on this"
            " installation: `evalsuite selftest adm-256` does that"
        )
    names = list(dict.fromkeys(record.protocol_name for record in records))
    if len(names) < 2:
        metrics_table(records)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for name in names:
        table.add_column(str(name), justify="right")
    cells: dict[str, dict[str | None, str]] = {}
    for row, record in zip(metric_rows(records), records, strict=True):
        text = f"{row.value} ± {row.error}" if row.error else row.value
        cells.setdefault(row.name, {})[record.protocol_name] = text
    for metric, by_name in cells.items():
        table.add_row(metric, *(by_name.get(name, "-") for name in names))
    table.add_row("reference", *(_references(records, name) for name in names))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    for row, record in zip(metric_rows(records), records, strict=True):
        for note in row.notes:
            line = f"  {record.protocol_name} {row.name}: {note}"
            console.print(line, markup=False, soft_wrap=True)
    _say_of_references(console, records)


def _say_of_references(console: Console, records: Sequence[Record]) -> None:
    """Once for each: no reader meets a number without its reference's traps."""
    for line in reference_lines(records):
        console.print(f"  {printable(line)}", markup=False, soft_wrap=True)


def _references(records: Sequence[Record], protocol_name: str | None) -> str:
    used = {r.reference for r in records if r.protocol_name == protocol_name and r.reference}
    return ", ".join(sorted(used)) or "-"


class ProgressView:
    """A bar when stderr is a terminal, plain lines otherwise."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last_line = 0.0
        self._bar: Progress | None = None
        self._task: Any = None
        self._losses = 0
        self._last_done = -1

    def __enter__(self) -> "ProgressView":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: "Standing") -> None:
        """Show where the work of an invocation stands."""
        self.update(
            progress.images_done,
            progress.images_total,
            progress.workers,
            progress.losses,
            loading=progress.loading,
            rate=progress.images_per_second,
            waits_for=progress.waits_for,
        )

    def update(
        self,
        images_done: int,
        images_total: int,
        workers: int,
        losses: int,
        *,
        loading: bool,
        rate: float | None = None,
        waits_for: str = "",
    ) -> None:
        """Show where the work stands."""
        now = time.monotonic()
        if self._began is None and not loading:
            self._began = now
        if rate is None:
            rate = images_done / (now - self._began) if self._began and now > self._began else 0.0
        if sys.stderr.isatty():
            about = waits_for or "loading" if loading else f"{speed(rate)}, {_workers(workers)}"
            self._show_bar(images_done, images_total, about, losses)
        else:
            about = waits_for or f"{speed(rate)}, {_workers(workers)}"
            self._show_line(images_done, images_total, about, rate, losses, now)

    def _show_bar(self, done: int, total: int, about: str, losses: int) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[about]}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("images", total=total, about="")
            self._bar.start()
        about += f", {_workers(losses)} lost" if losses else ""
        self._bar.update(self._task, completed=done, total=total, about=about)

    def _show_line(
        self, done: int, total: int, about: str, rate: float, losses: int, now: float
    ) -> None:
        finished = done == total and self._last_done != total
        if now - self._last_line < _LINE_EVERY_S and losses == self._losses and not finished:
            return
        self._last_line, self._losses, self._last_done = now, losses, done
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        lost = f", {_workers(losses)} lost and replaced" if losses else ""
        click.echo(f"images {done}/{total}, {about}{lost}{left}", err=True)


def speed(images_per_second: float) -> str:
    """`8.8 images/s`, or `34 s/image` where that says more."""
    if 0 < images_per_second < 0.1:
        return f"{1 / images_per_second:.0f} s/image"
    return f"{images_per_second:.1f} images/s"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `6.9 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def data_size(num_bytes: int) -> str:
    """`12.3 MB`, `39.3 GB`."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"
