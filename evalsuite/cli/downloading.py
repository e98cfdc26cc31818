"""Bringing published files into this machine's cache, with progress."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from evalsuite.config import (
        BenchmarkFile,
        BenchmarkSpec,
        ExtractorSpec,
        FilePlace,
        ReferenceSpec,
    )
    from evalsuite.pipeline.lock import LockedItem


def fetched_reference(spec: "ReferenceSpec", *, allow_unverified: bool) -> Path:
    """The file of a reference, fetched from the first of its places if it is not here."""
    if spec.file is not None:
        return spec.path.parent / spec.file
    return fetched(spec.pinned_places[0], allow_unverified=allow_unverified)


def fetched_weights(spec: "ExtractorSpec") -> Path | None:
    """The weights of an extractor, fetched from the first of its places if none is here.

    None when they are nowhere to be had: the user brings them.
    """
    from evalsuite.artifacts.downloads import cached_file

    if spec.weights.file is not None:
        return spec.path.parent / spec.weights.file
    here = [cached_file(place) for place in spec.weights.places]
    found = next((path for path in here if path is not None), None)
    if found is not None or not spec.weights.places:
        return found
    return fetched(spec.weights.places[0], allow_unverified=False)


def fetched_benchmark(
    values: dict[str, Any], *, allow_unverified: bool
) -> "tuple[LockedItem, ...]":
    """The files of `--benchmark`, fetched where they are not here, as items of a lock file."""
    from evalsuite.config import BenchmarkSpec, load_spec
    from evalsuite.pipeline.fetching import benchmark_items

    if values["benchmark"] is None:
        return ()
    spec = load_spec(BenchmarkSpec, values["benchmark"])
    for file in spec.files:
        benchmark_path(spec, file, allow_unverified=allow_unverified)
    return benchmark_items(spec)


def benchmark_path(spec: "BenchmarkSpec", file: "BenchmarkFile", *, allow_unverified: bool) -> Path:
    """A file of a benchmark: the one beside its YAML, or fetched if it is not here.

    Raises:
        CorruptionError: it is not the one that git names; a fetched one is removed.
    """
    from evalsuite.artifacts.downloads import forget_pin, remove_cached
    from evalsuite.errors import CorruptionError
    from evalsuite.pipeline.benchmark_files import check_published, file_here

    if file.place is None:
        return file_here(spec, file)
    if file.git_blob is not None:
        forget_pin(file.place)  # what first came says nothing where git names the file
    path = fetched(file.place, allow_unverified=allow_unverified)
    try:
        check_published(file, path)
    except CorruptionError as error:
        remove_cached(file.place)
        raise CorruptionError(
            f"{error}: it was removed; fetch it again, from another network if it comes so again"
        ) from error
    return path


def fetched(place: "FilePlace", *, allow_unverified: bool) -> Path:
    """A file, with a bar or lines on stderr while it comes."""
    from evalsuite.artifacts.downloads import fetch_file

    view = DownloadView(place.filename)
    try:
        return fetch_file(place, allow_unverified=allow_unverified, progress=view)
    finally:
        view.close()


class DownloadView:
    """A bar when stderr is a terminal, a line for each tenth otherwise."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._bar: Any = None
        self._tenths = 0

    def __call__(self, done: int, total: int | None) -> None:
        """Show how much has come."""
        import sys

        if sys.stderr.isatty():
            self._show_bar(done, total)
        elif total and done * 10 // total > self._tenths:
            self._tenths = done * 10 // total
            click.echo(f"{self._filename} {done:,} of {total:,} bytes", err=True)

    def _show_bar(self, done: int, total: int | None) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

            columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._filename, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
