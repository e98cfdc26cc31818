"""The files of a folder that may hold samples, in one order, without following links to folders."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from evalsuite.errors import DataError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_OTHER_PICTURES = frozenset({".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".jp2"})


@dataclass
class FolderContent:
    """Relative POSIX paths by kind, each sorted as plain text (10.png comes before 2.png)."""

    pictures: list[str] = field(default_factory=list)
    parquet: list[str] = field(default_factory=list)
    npz: list[str] = field(default_factory=list)
    num_others: int = 0
    """Files that are none of these; hidden ones do not count."""


def walk(folder: Path) -> FolderContent:
    """Every file below a folder that is not hidden.

    A link to a file counts as the file. A link to a folder is refused: one inside `folder` would
    count its images twice, or never end.

    Raises:
        DataError: a link to a folder, a picture that is a broken link, a picture of a
            kind that is not read, or a folder that may not be read.
    """
    content, pending = FolderContent(), [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        pending += _take(entry, folder, content)
        except OSError as error:
            raise DataError(f"{folder}: cannot list {error.filename}: {error.strerror}") from error
    for names in (content.pictures, content.parquet, content.npz):
        names.sort()
    return content


def _take(entry: os.DirEntry[str], folder: Path, content: FolderContent) -> list[Path]:
    """Sort one entry in; gives it back when it is a folder to look into."""
    path = Path(entry.path)
    if entry.is_dir(follow_symlinks=False):
        return [path]
    if entry.is_symlink() and path.is_dir():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"{path} is a link to a folder elsewhere, which is not followed: give that folder,"
                " or put links to its files here"
            )
        raise DataError(
            f"{path} is a link to a folder inside {folder}, whose images would be counted twice:"
            " remove the link"
        )
    suffix = path.suffix.lower()
    if suffix in PICTURES | {".parquet", ".npz"} and not path.is_file():
        raise DataError(f"{path} is no file (a broken link?): remove it or put the image there")
    if suffix in _OTHER_PICTURES:
        raise DataError(
            f"{path} is a picture of a kind that is not read: convert it to PNG, or remove it"
        )
    names = {".parquet": content.parquet, ".npz": content.npz}.get(suffix)
    if suffix in PICTURES:
        names = content.pictures
    if names is None:
        content.num_others += 1
    else:
        names.append(path.relative_to(folder).as_posix())
    return []
