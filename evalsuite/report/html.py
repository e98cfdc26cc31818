"""The report of a run: one HTML file that needs no network, and at most a folder of pictures.

What people and models wrote (names, tags, outcomes) passes jinja2's escaping.
"""

from collections.abc import Iterable
from typing import NamedTuple

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import Place, Storage
from evalsuite.errors import UsageError
from evalsuite.report.environment import fill, script_sha256
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.results import foreign_prefixes
from evalsuite.report.sections.listed import SECTIONS

FOLDER = "report"
REPORT_PATH = f"{FOLDER}/index.html"


class Report(NamedTuple):
    """A page and the files beside it, by their paths relative to it."""

    html: str
    files: dict[str, bytes]


def write_report(run: RunDirectory) -> Place:
    """Write `report/index.html`, in place of an older one, and say where it lies.

    Raises:
        UsageError: the weights are random numbers, which are no result.
        CorruptionError: a receipt, a result or kept pixels cannot be trusted.
    """
    if run.plan.has_random_weights:
        raise UsageError(f"{run.root} was made with random weights: there is nothing to report")
    return write_page(run.storage, make_report(run), [section.name for section in SECTIONS])


def write_page(storage: Storage, report: Report, folders: Iterable[str] = ()) -> Place:
    """Write a page and its files below `report/`, in place of older ones, and say where it lies.

    Args:
        storage: of the run or sweep.
        report: what is written.
        folders: below `report/` that are ours: what else lies in them is of an older report.
    """
    written = {f"{FOLDER}/{path}": content for path, content in report.files.items()}
    ours = tuple(f"{FOLDER}/{folder}/" for folder in folders)
    old = {one.path for one in storage.listing(FOLDER) if one.path.startswith(ours)}
    for path, content in written.items():
        storage.replace(path, content)
    storage.replace(REPORT_PATH, report.html.encode("utf-8", "replace"))
    for path in sorted(old - written.keys()):
        storage.delete(path)
    return storage.path(REPORT_PATH)


def render_report(run: RunDirectory) -> str:
    """The page alone; an unchanged run gives unchanged text.

    Raises:
        CorruptionError: a receipt, a result or kept pixels cannot be trusted.
    """
    return make_report(run).html


def make_report(run: RunDirectory) -> Report:
    """The page and its files, with every section that has something to show.

    Raises:
        CorruptionError: a receipt, a result or kept pixels cannot be trusted.
    """
    loaded = LoadedRun(run)
    made = [(section, section.make(loaded)) for section in SECTIONS]
    parts = [(section, part) for section, part in made if part is not None]
    html = fill(
        "report.html.j2",
        run=loaded,
        prefixes=foreign_prefixes(loaded.records),
        sections=[(section, part.html) for section, part in parts],
        script_sha256=script_sha256(),
    )
    files = {path: content for _, part in parts for path, content in part.files.items()}
    return Report(str(html), files)
