"""The folder that a job takes along: what git tracks or would track, in one archive."""

import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from evalsuite.errors import EnvironmentProblem, StorageError, UsageError, printable

LARGEST_BYTES = 100 * 2**20
"""Ray's job server takes no larger request."""
NEVER = frozenset({".git", ".venv", "venv", "runs", "__pycache__", "node_modules"})
"""Folders that are left out even where git does not ignore them."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content is the same archive, which is sent once


@dataclass(frozen=True)
class Package:
    """An archive of a folder."""

    path: Path
    num_files: int
    num_bytes: int
    left_out: tuple[str, ...]
    """Entries that are no readable file of the folder: submodules, links that lead out of it."""
    revision: str | None
    """Git's commit, with `+changes` where files differ from it."""
    holds_evalsuite: bool
    """Whether the job runs the evalsuite of this folder instead of the cluster's."""


def make_package(folder: Path, target: Path) -> Package:
    """Write the files of `folder` that git tracks, or would track, into a zip at `target`.

    Args:
        folder: inside a git work tree; only what lies below it is taken.
        target: a new file that ends in `.zip`.

    Raises:
        UsageError: no git work tree, nothing in it, a name that is not UTF-8, or too large a
            package.
        EnvironmentProblem: there is no git.
        StorageError: a file cannot be read.
    """
    root = folder.resolve()
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None:
        raise UsageError(
            f"{folder} is no git work tree, so what to send is unknown: `git init` there, give"
            " --package FOLDER, or --no-package to use the evalsuite that the cluster has"
        )
    names = sorted({name for name in listed.split("\0") if name})
    names = [name for name in names if not NEVER & set(Path(name).parts)]
    files = [name for name in names if _is_own_file(root, name)]
    if not files:
        raise UsageError(f"{folder} holds no file that git tracks or would track")
    _check_names(folder, files)
    left_out = sorted(set(names) - set(files) - set(_deleted(root)))
    try:
        _write_zip(root, files, target)
    except OSError as error:
        raise StorageError(f"cannot package {folder}: {error}") from error
    return Package(
        path=target,
        num_files=len(files),
        num_bytes=target.stat().st_size,
        left_out=tuple(printable(name) for name in left_out),
        revision=_revision(root),
        holds_evalsuite="evalsuite/__main__.py" in files,
    )


def _check_names(folder: Path, names: list[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{folder} holds {name}, whose name is not UTF-8 as an archive wants it: rename it,"
                " or let git ignore it"
            ) from error


def _write_zip(root: Path, names: list[str], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            path = root / name
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
            if path.stat().st_size >= LARGEST_BYTES or target.stat().st_size >= LARGEST_BYTES:
                raise _too_large(root, names)
            archive.writestr(entry, path.read_bytes())
    if target.stat().st_size >= LARGEST_BYTES:
        raise _too_large(root, names)


def _too_large(root: Path, names: list[str]) -> UsageError:
    largest = sorted(names, key=lambda name: (root / name).stat().st_size, reverse=True)[:3]
    shown = ", ".join(
        f"{name} ({(root / name).stat().st_size / 2**20:.0f} MiB)" for name in largest
    )
    return UsageError(
        f"{root} makes a package of more than {LARGEST_BYTES // 2**20} MiB, which Ray's job server"
        f" does not take; the largest files are {shown}: let git ignore what the job does not"
        " need, and keep weights where every node reads them"
    )


def _is_own_file(root: Path, name: str) -> bool:
    path = root / name
    return path.is_file() and path.resolve().is_relative_to(root)


def _deleted(root: Path) -> list[str]:
    return (_git(root, "ls-files", "-z", "--deleted") or "").split("\0")


def _revision(root: Path) -> str | None:
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return None
    changes = _git(root, "status", "--porcelain", ".")
    return revision.strip() + ("+changes" if changes else "")


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None where it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise EnvironmentProblem(
            f"git is needed to know what to send ({error.strerror}): install it, or give"
            " --no-package"
        ) from error
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None
