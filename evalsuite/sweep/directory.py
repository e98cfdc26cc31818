"""A sweep directory: what was asked, one table for each rung, the result; runs lie elsewhere.

    sweeps/MODEL-SWEEPID/
      sweep.json             written once: axes, configurations, rungs, protocol, where the runs are
      rungs/00002000.json    values, differences from the leader, intervals, who goes on
      result.json            the winner, who is level with it, and the winner on fresh seeds

All but `sweep.json` follows from receipts and records of the runs, so a sweep that was ended and is
started again writes the same bytes.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

from evalsuite.artifacts.records import Protocol
from evalsuite.artifacts.storage import Place, Storage, open_storage, place_seen_from
from evalsuite.config import (
    AxisValue,
    Frozen,
    Scalar,
    canonical_json,
    parse_json,
)
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.record_files import SWEEP
from evalsuite.sweep.making import make_once
from evalsuite.sweep.tables import (
    REMEDY,
    RungTable,
    SweepResult,
    as_file,
    read_model,
    read_sealed,
    write_sealed,
)

SWEEP_SCHEMA = 2
MANIFEST, RESULT = SWEEP, "result.json"


class ConfigurationEntry(Frozen):
    """One configuration and the run that has its samples."""

    name: str
    setting: dict[str, Scalar | tuple[Scalar, ...]]
    plan_id: str
    run: str
    """Relative to the sweep directory, or a URL."""
    nfe: int
    batch_size: int


class SweepManifest(Frozen):
    """What was asked, resolved."""

    schema_version: int = SWEEP_SCHEMA
    sweep_id: str
    model: str
    axes: dict[str, tuple[AxisValue, ...]]
    configurations: tuple[ConfigurationEntry, ...]
    rungs: tuple[int, ...]
    strategy: Literal["grid", "halving"]
    metric: str
    better: Literal["lower", "higher"]
    budget: int | None
    """Samples that may be made in all; None without a limit."""
    first_seed: int
    fresh_first_seed: int | None
    """Of the samples that the winner is scored on again; None when it is not."""
    protocol: Protocol
    """Of the metric on the last rung."""
    protocol_name: str | None
    reference: str | None
    prefix: str
    """Before names of metrics, as records have it; empty for ImageNet's Inception alone."""

    @property
    def identity(self) -> str:
        """SHA-256 of all that decides the result."""
        return hashlib.sha256(canonical_json(self.identity_fields())).hexdigest()

    def identity_fields(self) -> dict[str, Any]:
        """All fields but names and places."""
        return self.model_dump(
            mode="json", exclude={"sweep_id": True, "configurations": {"__all__": {"run"}}}
        )

    @property
    def display(self) -> str:
        """The metric that decides as it stands in tables, without N: `digits-FID`."""
        spec = METRICS.get(self.metric)  # another version may have had others
        return f"{self.prefix}{spec.display if spec else self.metric}"

    def entry(self, name: str) -> ConfigurationEntry:
        """A configuration by its name."""
        return next(one for one in self.configurations if one.name == name)


class SweepDirectory:
    """Reads and writes one sweep."""

    def __init__(self, storage: Storage, manifest: SweepManifest) -> None:
        self.storage, self.manifest = storage, manifest

    @property
    def root(self) -> Place:
        """Where it lies."""
        return self.storage.root

    @classmethod
    def create_or_open(cls, root: Place, manifest: SweepManifest) -> "SweepDirectory":
        """Open the sweep at `root` when it is the same one, or make it.

        Raises:
            UsageError: `root` holds another sweep (the line names what differs), one whose runs lie
                elsewhere, or other files.
        """
        make_once(open_storage(root), MANIFEST, as_file(manifest.model_dump(mode="json")), "sweep")
        found = cls.open(root)
        if found.manifest.sweep_id != manifest.sweep_id:
            ours, theirs = manifest.identity_fields(), found.manifest.identity_fields()
            fields = [key for key in ours if ours[key] != theirs[key]]
            raise UsageError(
                f"{root} holds another sweep (it differs in {', '.join(fields)}): give another"
                " --output; the runs are found all the same"
            )
        pairs = zip(manifest.configurations, found.manifest.configurations, strict=True)
        for asked, before in pairs:
            there, here = found.place(before.run), found.place(asked.run)
            if _resolved(there) != _resolved(here):
                raise UsageError(
                    f"{root} refers to runs such as {there}, and is now asked to use {here}: give"
                    " the --runs of before, or another --output"
                )
        return found

    @classmethod
    def open(cls, root: Place) -> "SweepDirectory":
        """Open an existing sweep.

        Raises:
            UsageError: there is none at `root`.
            DataError: another version of evalsuite wrote it.
            CorruptionError: it cannot be read, or was edited.
        """
        storage = open_storage(root)
        content = storage.find(MANIFEST)
        if content is None:
            raise UsageError(f"{root} is not a sweep directory: it has no {MANIFEST}")
        _check_version(content, root / MANIFEST)
        manifest = read_model(SweepManifest, content, root / MANIFEST)
        if manifest.identity != manifest.sweep_id:
            raise CorruptionError(f"{root / MANIFEST} does not hash to its sweep_id: it was edited")
        return cls(storage, manifest)

    def rungs(self) -> list[RungTable]:
        """The rungs that are decided, from the first on.

        Raises:
            CorruptionError: one cannot be read, or was edited.
        """
        return [
            self._read(RungTable, self.storage.read(path), path)
            for name in self.storage.names("rungs", ".json")
            for path in [f"rungs/{name}"]
        ]

    def rung(self, num_samples: int) -> RungTable | None:
        """One rung; None until it is decided.

        Raises:
            CorruptionError: it cannot be read, or was edited.
        """
        content = self.storage.find(path := _path_of(num_samples))
        return None if content is None else self._read(RungTable, content, path)

    def result(self) -> SweepResult | None:
        """What was found; None until it is.

        Raises:
            CorruptionError: it cannot be read, or was edited.
        """
        content = self.storage.find(RESULT)
        return None if content is None else self._read(SweepResult, content, RESULT)

    def lacking(self) -> list[str]:
        """Tables that are not there although a later one, or the result, is.

        Raises:
            CorruptionError: a table cannot be read, or was edited.
        """
        decided = [table.num_samples for table in self.rungs()]
        result = self.result()
        last = max([*decided, *([result.num_samples] if result else [])], default=0)
        return [
            _path_of(rung) for rung in self.manifest.rungs if rung <= last and rung not in decided
        ]

    @property
    def lacking_lines(self) -> list[str]:
        """A line for each of these.

        Raises:
            CorruptionError: a table cannot be read, or was edited.
        """
        return [
            f"{self.root / path} is not there, although what follows from it is: {REMEDY}"
            for path in self.lacking()
        ]

    def write_rung(self, table: RungTable) -> None:
        """Write or replace the table of a rung."""
        self._write(_path_of(table.num_samples), table)

    def write_result(self, result: SweepResult) -> None:
        """Write or replace the result."""
        self._write(RESULT, result)

    def _read(self, kind: Any, content: bytes, path: str) -> Any:  # noqa: ANN401 - a `kind`
        return read_sealed(kind, content, self.manifest.sweep_id, self.root, path)

    def _write(self, path: str, table: RungTable | SweepResult) -> None:
        self.storage.replace(path, write_sealed(table, self.manifest.sweep_id, path))

    def as_json(self) -> dict[str, Any]:
        """Everything that it holds."""
        result = self.result()
        return {
            "sweep": str(self.root),
            "manifest": self.manifest.model_dump(mode="json"),
            "rungs": [table.model_dump(mode="json") for table in self.rungs()],
            "lacking": self.lacking(),
            "result": None if result is None else result.model_dump(mode="json"),
        }

    def place(self, run: str) -> Place:
        """Where a run lies that a sweep refers to."""
        return place_from(self.root, run)


def is_sweep(place: Place) -> bool:
    """Whether a sweep lies there.

    Raises:
        StorageError: the place cannot be looked at.
    """
    return open_storage(place).exists(MANIFEST)


def reference_to(run: Place, sweep: Place) -> str:
    """How a sweep refers to a run: relative where both are local, so that both may be moved.

    Raises:
        UsageError: a local run of a sweep in an object store.
    """
    if not isinstance(run, Path):
        return str(run)
    if not isinstance(sweep, Path):
        raise UsageError(f"--output {sweep} is in an object store: give --runs there too")
    return Path(os.path.relpath(run.absolute(), sweep.absolute())).as_posix()


def place_from(root: Place, run: str) -> Place:
    """The place that `reference_to` made a text of, seen from `root`, wherever both were copied.

    Raises:
        UsageError: a relative one that leads out of an object store's bucket.
    """
    return place_seen_from(root.absolute() if isinstance(root, Path) else root, run)


def _check_version(content: bytes, where: Place) -> None:
    """Raise DataError where the manifest says that it is of another version.

    Its fields have other meanings then, or are not there: that is no damage.
    """
    try:
        tree = parse_json(content)
    except ValueError:
        return  # told when it is read
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if isinstance(version, int) and version != SWEEP_SCHEMA:
        raise DataError(
            f"{where} was written by another version of evalsuite (schema {version}, this one reads"
            f" {SWEEP_SCHEMA}): sweep again with another --output; its runs are found all the same"
        )


def _path_of(num_samples: int) -> str:
    return f"rungs/{num_samples:08d}.json"


def _resolved(place: Place) -> Place:
    """The place behind links: the same one may be named in several ways."""
    return place.resolve() if isinstance(place, Path) else place
