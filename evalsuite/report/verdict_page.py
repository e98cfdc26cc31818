"""A page of verdicts alone: for folders, which have no report, and for runs that are far away."""

from pathlib import Path

from evalsuite.artifacts.storage import Place, open_storage
from evalsuite.pipeline.judged_images import JudgedImages
from evalsuite.report.environment import fill, script_sha256
from evalsuite.report.html import Report, write_page
from evalsuite.report.sections.listed import SECTIONS
from evalsuite.report.verdicts import verdict_set

_NAME = "verdicts"


def write_verdict_page(images: JudgedImages, rows: Place, target: Path) -> Place:
    """Write `report/index.html` below `target`, in place of an older one, and say where it lies.

    Args:
        images: that were judged.
        rows: the finished file of their verdicts, answers or scores.
        target: a folder.

    Raises:
        CorruptionError: the rows are of other images.
        DataError: rows are missing.
        StorageError: it cannot be written.
    """
    one = verdict_set(images, rows, _NAME)
    (section,) = (section for section in SECTIONS if section.name == _NAME)
    html = fill(
        "verdict_page.html.j2",
        one=one,
        place=str(images.place),
        sections=[(section, fill("sections/verdicts.html.j2", sets=[one]))],
        script_sha256=script_sha256(),
    )
    return write_page(open_storage(target), Report(str(html), dict(one.files)), [_NAME])
