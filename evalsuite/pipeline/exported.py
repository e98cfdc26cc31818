"""Whose images an exported layout holds: a note beside it, to which the folder is held later.

The note stands outside of the folder, which official scorers read whole.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import Place, file_sha256, open_storage, place_of
from evalsuite.config import Frozen, canonical_json, explain
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.pipeline.stage_names import VERDICTS

_SCHEMA = 1
EXTERNAL = "external-"
"""First part of the names of other people's numbers among a run's verdicts."""
_DIGITS = 12


class ExportNote(Frozen):
    """What an exported folder is of."""

    schema_version: int = _SCHEMA
    layout: str
    """geneval or dpg."""
    run: str
    """Where the run was."""
    plan_id: str
    num_images: int
    num_prompts: int
    files_sha256: str
    """See `FolderDigest`."""


class FolderDigest(NamedTuple):
    """Of a folder's files: how many, and one SHA-256 of their names and contents."""

    num_files: int
    sha256: str


def digest_of_folder(folder: Path) -> FolderDigest:
    """Of all files below a folder.

    Raises:
        StorageError: a file cannot be read.
        DataError: there is none.
    """
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    if not files:
        raise DataError(f"{folder} holds no file")
    hashes = {name: file_sha256(path) for name, path in files.items()}
    return FolderDigest(len(files), hashlib.sha256(canonical_json(hashes)).hexdigest())


def note_path(folder: Path) -> Path:
    """`images.export.json` beside `images`."""
    return folder.absolute().with_name(f"{folder.absolute().name}.export.json")


def write_note(
    folder: Path, run: RunDirectory, layout: str, num_images: int, num_prompts: int
) -> None:
    """Say beside a folder that was just exported what it is of.

    Raises:
        StorageError: it cannot be written.
    """
    note = ExportNote(
        layout=layout,
        run=str(run.root.absolute()),
        plan_id=run.manifest.plan_id,
        num_images=num_images,
        num_prompts=num_prompts,
        files_sha256=digest_of_folder(folder).sha256,
    )
    path = note_path(folder)
    open_storage(path.parent).replace(path.name, note.model_dump_json(indent=1).encode() + b"\n")


class ExportedImages(NamedTuple):
    """A folder that is to be scored, as far as it is known."""

    folder: Path
    digest: FolderDigest
    note: ExportNote | None

    @property
    def about(self) -> dict[str, Any]:
        """For a record of provenance."""
        said: dict[str, Any] = {
            "images": str(self.folder.absolute()),
            "num_files": self.digest.num_files,
            "files_sha256": self.digest.sha256,
        }
        if self.note is not None:
            for key in ("run", "plan_id", "num_images", "num_prompts"):
                said[key] = getattr(self.note, key)
        return said


def open_exported(folder: Path, layout: str) -> ExportedImages:
    """A folder with its digest, and its note where one stands beside it.

    Raises:
        UsageError: it is no folder, or of the other layout.
        DataError: it holds no file, or others than when it was exported.
        CorruptionError: the note cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: `evalsuite export` writes one")
    path, digest = note_path(folder), digest_of_folder(folder)
    content = open_storage(path.parent).find(path.name)
    if content is None:
        return ExportedImages(folder, digest, None)
    try:
        note = ExportNote.model_validate_json(content)
    except ValidationError as error:
        raise CorruptionError(f"{path}: {explain(error, ExportNote)}; export again") from error
    if note.schema_version != _SCHEMA:
        raise DataError(f"{path} has schema {note.schema_version}, this evalsuite reads {_SCHEMA}")
    if note.layout != layout:
        raise UsageError(f"{folder} was exported as {note.layout}, not {layout}")
    if note.files_sha256 != digest.sha256:
        raise DataError(
            f"{folder} holds other files than `evalsuite export` wrote: export again, or remove"
            f" {path} to have it scored as a folder of its own"
        )
    return ExportedImages(folder, digest, note)


def run_of(images: ExportedImages, given: Place | None) -> RunDirectory | None:
    """The run that a folder was exported from; None where nothing says so, or it is gone.

    Args:
        images: from `open_exported`.
        given: where the run is now, if the user says so.

    Raises:
        UsageError: a run was given, but nothing says that the images are its.
        DataError: the run that was given is another.
    """
    if images.note is None:
        if given is not None:
            raise UsageError(
                f"--run {given}: there is no {note_path(images.folder)}, so nothing says that the"
                " images are this run's: `evalsuite export` writes one"
            )
        return None
    place = place_of(images.note.run) if given is None else given
    if given is None and not is_run(place):
        return None
    run = RunDirectory.open(place)
    if run.manifest.plan_id != images.note.plan_id:
        if given is None:
            return None
        raise DataError(f"{images.folder} was not exported from {place}: its plan is another")
    return run


def keep_external(run: RunDirectory, found: dict[str, Any]) -> str:
    """Put somebody's numbers among a run's verdicts; gives their place in the run.

    The same scorer on the same images takes its old place.

    Raises:
        StorageError: they cannot be written.
    """
    of = found["provenance"]
    named = {key: of.get(key) for key in ("command", "files_sha256", "version")}
    digest = hashlib.sha256(canonical_json([named, of["of"]["files_sha256"]])).hexdigest()
    name = f"{VERDICTS}/{EXTERNAL}{found['benchmark']}-{digest[:_DIGITS]}.json"
    run.storage.replace(name, canonical_json({"source": run.manifest.plan_id, **found}) + b"\n")
    return name
