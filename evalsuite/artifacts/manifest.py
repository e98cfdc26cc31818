"""The manifest of a run directory: its plan, written once."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from evalsuite.artifacts.storage import Storage
from evalsuite.config import Frozen, Plan, Scalar, Sha256, explain, parse_json
from evalsuite.errors import CorruptionError, DataError

MANIFEST_SCHEMA = 1
_RESTORE = "restore it from a copy, or make the run anew in another directory"


class Manifest(Frozen):
    """Written once, when a run directory is made."""

    schema_version: int = MANIFEST_SCHEMA
    model: str
    """Preset name; not part of the plan."""
    plan_id: Sha256
    plan: Plan
    class_names: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    """Of a text model; a label is a place in this list."""
    weights_origin: dict[str, Scalar] = Field(default_factory=dict)
    """Where the weights of the first invocation came from."""
    file_labels: tuple[int, ...] | None = None
    """Labels by index for the label rule `file`."""
    formats: dict[str, Any]
    created_at: str


def read_manifest(storage: Storage) -> Manifest:
    """The manifest of the run at a storage's root.

    Raises:
        CorruptionError: it cannot be read, or was edited.
        DataError: a newer evalsuite wrote it.
    """
    where = storage.root / "manifest.json"
    try:
        content = parse_json(storage.read("manifest.json"))
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > MANIFEST_SCHEMA:
            raise DataError(
                f"{where} has schema version {version}, newer than this evalsuite reads"
                f" ({MANIFEST_SCHEMA}): upgrade evalsuite"
            )
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise CorruptionError(f"{where}: {explain(error, Manifest)}: {_RESTORE}") from error
    except ValueError as error:
        # a server that is no store may give a page for every name
        check = "" if isinstance(where, Path) else "check that a store answers at its endpoint, or "
        raise CorruptionError(f"{where} is not JSON: {check}{_RESTORE}") from error
    if manifest.plan.plan_id != manifest.plan_id:
        raise CorruptionError(
            f"{where}: its plan does not hash to its plan_id; it was edited: {_RESTORE}"
        )
    return manifest
