"""A watch directory: what was asked, one small file for each scored checkpoint; runs lie elsewhere.

    watches/MODEL-WATCHID/
      watch.json                    written once: model, settings, pattern, N, protocols
      checkpoints/0000001000.json   the checkpoint of step 1000: its file, its run and its records
      table.csv                     one row for each step
      curve.png                     the first metric against the step

Table and curve follow from the others, whose numbers are in the records of the runs.
"""

import hashlib
import json
from typing import Any

from pydantic import Field

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import Place, Storage, open_storage
from evalsuite.config import Frozen, canonical_json, parse_json
from evalsuite.errors import CorruptionError, UsageError
from evalsuite.pipeline.record_files import WATCH, read_record
from evalsuite.sweep.directory import place_from
from evalsuite.sweep.making import make_once
from evalsuite.sweep.tables import read_model

WATCH_SCHEMA = 1
OF_WEIGHTS = frozenset({"weights_sha256", "ema"})
"""Fields of a plan in which the checkpoints of a watch differ."""
MANIFEST, TABLE, CURVE = WATCH, "table.csv", "curve.png"
_FOLDER = "checkpoints"


class WatchManifest(Frozen):
    """What was asked, resolved."""

    schema_version: int = WATCH_SCHEMA
    model: str
    pattern: str
    """Absolute: two trainings of one model are two watches."""
    num_samples: int
    plan: dict[str, Any]
    """Fields that all checkpoints share: all but the weights and which of them."""
    ema: str
    """As asked."""
    measures: tuple[dict[str, Any], ...]
    """Protocol, extractor, reference with its digests, and metrics, for each protocol."""

    @property
    def watch_id(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()

    @property
    def name(self) -> str:
        """Of the directory, where nobody names another."""
        return f"{self.model}-{self.watch_id[:8]}"


class CheckpointEntry(Frozen):
    """A checkpoint that was scored."""

    step: int = Field(ge=0)
    file: str
    """Below the folder of the pattern."""
    num_bytes: int
    modified_ns: int
    weights_sha256: str
    ema: str
    plan_id: str
    run: str
    """Relative to the watch directory, or a URL."""
    records: tuple[str, ...]
    """Paths in the run."""
    scored_at: str


class WatchDirectory:
    """Reads and writes one watch."""

    def __init__(self, storage: Storage, manifest: WatchManifest) -> None:
        self.storage, self.manifest = storage, manifest
        self._records: dict[tuple[str, str], Record] = {}

    @property
    def root(self) -> Place:
        """Where it lies."""
        return self.storage.root

    @classmethod
    def create_or_open(cls, root: Place, manifest: WatchManifest) -> "WatchDirectory":
        """Open the watch at `root` when it is the same one, or make it.

        Raises:
            UsageError: `root` holds another watch (the line names what differs), or other files.
        """
        make_once(open_storage(root), MANIFEST, _json(manifest), "watch")
        found = cls.open(root)
        ours, theirs = manifest.model_dump(mode="json"), found.manifest.model_dump(mode="json")
        fields = [key for key in ours if ours[key] != theirs[key]]
        if fields:
            raise UsageError(
                f"{root} holds another watch (it differs in {', '.join(fields)}): give another"
                " --output; the runs are found all the same"
            )
        return found

    @classmethod
    def open(cls, root: Place) -> "WatchDirectory":
        """Open an existing watch.

        Raises:
            UsageError: there is none at `root`.
            CorruptionError: it cannot be read.
        """
        storage = open_storage(root)
        content = storage.find(MANIFEST)
        if content is None:
            raise UsageError(f"{root} is not a watch directory: it has no {MANIFEST}")
        return cls(storage, read_model(WatchManifest, content, root / MANIFEST))

    def entries(self) -> list[CheckpointEntry]:
        """Checkpoints whose records are there, by step; a run that was removed takes its out.

        Raises:
            CorruptionError: one cannot be read.
        """
        names = self.storage.names(_FOLDER, ".json")
        contents = self.storage.contents(f"{_FOLDER}/{name}" for name in names)
        entries = [
            read_model(CheckpointEntry, content, self.root / _FOLDER / name)
            for name, content in zip(names, contents, strict=True)
        ]
        return sorted((e for e in entries if self._has_records(e)), key=lambda one: one.step)

    def records(self, entry: CheckpointEntry) -> list[Record]:
        """What was measured of a checkpoint; each record is read once.

        Raises:
            CorruptionError: one cannot be read, or was edited.
            StorageError: one is missing.
        """
        missing = [p for p in entry.records if (entry.run, p) not in self._records]
        if missing:
            storage = open_storage(self.place(entry.run))
            for path, content in zip(missing, storage.contents(missing), strict=True):
                where = f"a record in {storage.root}"
                try:
                    found = read_record(parse_json(content), where)
                except ValueError as error:
                    raise CorruptionError(f"{where}/{path} is not JSON: remove it") from error
                self._records[entry.run, path] = found
        return [self._records[entry.run, path] for path in entry.records]

    def write_entry(self, entry: CheckpointEntry) -> None:
        """Write or replace what is known of a step."""
        self.storage.replace(f"{_FOLDER}/{entry.step:010d}.json", _json(entry))

    def place(self, run: str) -> Place:
        """Where a run lies that an entry refers to."""
        return place_from(self.root, run)

    def as_json(self) -> dict[str, Any]:
        """Everything that it holds, with the values of the records."""
        return {
            "watch": str(self.root),
            "manifest": self.manifest.model_dump(mode="json"),
            "checkpoints": [
                {
                    **entry.model_dump(mode="json"),
                    "records": [one.model_dump(mode="json") for one in self.records(entry)],
                }
                for entry in self.entries()
            ],
        }

    def _has_records(self, entry: CheckpointEntry) -> bool:
        if all((entry.run, path) in self._records for path in entry.records):
            return True
        place = self.place(entry.run)
        return is_run(place) and all(map(RunDirectory.open(place).storage.exists, entry.records))


def is_watch(place: Place) -> bool:
    """Whether a watch lies there.

    Raises:
        StorageError: the place cannot be looked at.
    """
    return open_storage(place).exists(MANIFEST)


def _json(value: Frozen) -> bytes:
    return (json.dumps(value.model_dump(mode="json"), indent=1) + "\n").encode()
