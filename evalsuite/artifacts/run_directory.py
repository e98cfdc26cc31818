"""A run directory: one plan's manifest, receipts, images, features and results."""

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from evalsuite.artifacts import features, images
from evalsuite.artifacts.attempts import fault_of_attempt
from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.ledger import Ledger, Span
from evalsuite.artifacts.manifest import Manifest, read_manifest
from evalsuite.artifacts.plan_fields import differences
from evalsuite.artifacts.receipts import R, Receipt, ReceiptHead, Slice, cover, read_receipts
from evalsuite.artifacts.storage import Place, Storage, open_storage
from evalsuite.config import Plan, parse_json
from evalsuite.errors import (
    CorruptionError,
    EnvironmentProblem,
    IncompleteError,
    UsageError,
)

NUMERICS = "numerics.json"
STORED_PIXELS = "stored pixels"
CONDITIONS = "conditions"
"""Folder of prompt features, which can be made again."""
IMAGES, PIXELS = "images", "pixels"
"""Stages: `images` holds every pixel hash and what was kept; `pixels` adds what was left out."""


def feature_stage(extractor_id: str) -> str:
    """Stage name of an extractor's features."""
    return f"features/{extractor_id}"


class RunDirectory:
    """Reads and writes the artifacts of one plan below one root."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self.storage = storage
        self.manifest = manifest
        self.ledger = Ledger(storage, manifest.plan_id)

    @property
    def root(self) -> Place:
        """Where the run lies."""
        return self.storage.root

    @property
    def plan(self) -> Plan:
        """What decides the pixels of this run."""
        return self.manifest.plan

    @classmethod
    def open(cls, root: Place | str) -> "RunDirectory":
        """Open an existing run.

        Raises:
            UsageError: there is no run at `root`.
            CorruptionError: its manifest cannot be read.
        """
        storage = open_storage(root)
        if not storage.exists("manifest.json"):
            raise UsageError(f"{root} is not a run directory: it has no manifest.json")
        return cls(storage, read_manifest(storage))

    @classmethod
    def create_or_open(cls, root: Place | str, manifest: Manifest) -> "RunDirectory":
        """Open the run at `root` when it holds the same plan, or make it.

        Raises:
            UsageError: `root` holds a run of another plan (the line names what differs), or
                other files.
        """
        storage = open_storage(root)
        if not storage.exists("manifest.json"):
            others = storage.visible("")
            if others and not storage.exists("manifest.json"):  # another share may have made it
                raise UsageError(
                    f"{root} holds other files and no run: give an empty or new --output"
                )
            storage.check_writable()
            content = json.dumps(
                manifest.model_dump(mode="json", exclude_none=True), indent=1
            ).encode()
            storage.commit("manifest.json", content)
        run = cls(storage, read_manifest(storage))
        if run.manifest.plan_id != manifest.plan_id:
            differing = "; ".join(differences(run.plan, manifest.plan))
            raise UsageError(
                f"{root} holds a run of another plan: {differing}; give another --output"
            )
        return run

    def receipts(self, stage: str, start: int = 0, stop: int | None = None) -> list[Receipt]:
        """Receipts of a stage that touch start..stop-1, with pixel hashes; each is opened."""
        return read_receipts(self.storage, stage, self.manifest.plan_id, start, stop)

    def committed(self, stage: str, start: int = 0, stop: int | None = None) -> list[ReceiptHead]:
        """Committed shards of a stage that touch start..stop-1, without pixel hashes."""
        return self.ledger.heads(stage, start, stop)

    def spans(self, stage: str, start: int = 0, stop: int | None = None) -> list[Span]:
        """Ranges of the committed shards of a stage that touch start..stop-1."""
        return self.ledger.spans(stage, start, stop)

    def check_numerics(self, numerics: dict[str, Any], numerics_id: str) -> None:
        """Raise EnvironmentProblem when samples of other numerics are committed; writes nothing.

        Raises:
            CorruptionError: what is claimed cannot be read.
        """
        content = self.storage.find(NUMERICS)
        if content is not None:
            first = _claimed_in(content, str(self.root / NUMERICS))
            _check_same_numerics(first, numerics, numerics_id)

    def claim_numerics(self, numerics: dict[str, Any], numerics_id: str) -> None:
        """Make these the numerics of the run, or raise EnvironmentProblem when it has others.

        The first commit claims, exclusively, so shares that run at the same time cannot mix.
        """
        content = json.dumps({"numerics_id": numerics_id, "numerics": numerics}, indent=1)
        if not self.storage.commit(NUMERICS, content.encode()):
            self.check_numerics(numerics, numerics_id)

    def feature_stages(self) -> list[str]:
        """Stages of extractors that this run has features of."""
        return [feature_stage(name) for name in self.storage.folders("receipts/features")]

    def pixel_receipts(self, start: int = 0, stop: int | None = None) -> list[ReceiptHead]:
        """Shards that touch start..stop-1 and whose files keep the pixels of every sample."""
        kept = [one for one in self.committed(IMAGES, start, stop) if one.kept == "all"]
        return kept + self.committed(PIXELS, start, stop)

    def slices(self, receipts: Sequence[R], start: int, stop: int, what: str) -> list[Slice[R]]:
        """Slices that cover start..stop-1 without a gap.

        Raises:
            IncompleteError: samples are missing; the line lists the ranges.
        """
        found = cover(receipts, start, stop)
        gaps = gaps_of([(s.start, s.stop) for s in found], start, stop)
        if gaps:
            listed = ", ".join(f"{low}..{high - 1}" for low, high in gaps[:6])
            more = f" and {len(gaps) - 6} more ranges" if len(gaps) > 6 else ""
            how = " with `--images all`" if what == STORED_PIXELS else ""
            raise IncompleteError(
                f"{self.root} is not complete: {what} of samples {listed}{more} are missing;"
                f" run the same `evalsuite run` or `generate` again{how} to make them"
            )
        return found

    def read_features(self, extractor_id: str, stop: int, start: int = 0) -> FeatureTable:
        """Features of samples start..stop-1, every file checked against its receipt.

        Raises:
            IncompleteError: some are missing.
            CorruptionError: a file's bytes are not the recorded ones.
        """
        tables = []
        receipts = self.committed(feature_stage(extractor_id), start, stop)
        for part in self.slices(receipts, start, stop, "features"):
            file = part.receipt.files[0]
            where = str(self.storage.path(file.path))
            table = features.decode_features(self.storage.read_checked(file.entry), where)
            if (table.start, len(table.pool_ND)) != (
                part.receipt.start,
                part.receipt.stop - part.receipt.start,
            ):
                raise CorruptionError(f"{where} holds other samples than its receipt names")
            tables.append(table.rows(part.start, part.stop))
        return features.join(tables)

    def read_images(
        self, start: int, stop: int, kept: Sequence[ReceiptHead] | None = None
    ) -> Iterator[tuple[int, images.Images]]:
        """(sample_index, pixels) of start..stop-1, from shards that keep every image.

        Args:
            start: first sample.
            stop: one past the last sample.
            kept: the shards, where they are known; found by default.

        Raises:
            IncompleteError: pixels were not kept.
        """
        receipts = self.pixel_receipts(start, stop) if kept is None else kept
        for part in self.slices(receipts, start, stop, STORED_PIXELS):
            for index, image in self.read_shard(part.receipt):
                if part.start <= index < part.stop:
                    if image is None:
                        raise CorruptionError(
                            f"{self.root}: shard lacks the pixels of sample {index}"
                        )
                    yield index, image

    def read_shard(
        self, receipt: ReceiptHead, wanted: Container[int] | None = None
    ) -> Iterator[tuple[int, images.Images | None]]:
        """(sample_index, pixels or None) of one image shard, checked against its receipt.

        Args:
            receipt: of the shard.
            wanted: samples that are decoded and given; all by default.
        """
        file = receipt.files[0]
        where = str(self.storage.path(file.path))
        content = self.storage.read_checked(file.entry)
        if file.path.endswith(".npz"):
            yield from images.read_npz_shard(content, receipt.start, where, wanted)
        else:
            yield from images.read_parquet_shard(content, where, wanted)

    def kept_indices(self, stop: int, shards: Iterable[ReceiptHead] | None = None) -> list[int]:
        """The samples below `stop` whose pixels are stored, in order.

        Args:
            stop: one past the last sample.
            shards: where to look, where they are known; found by default.
        """
        found: set[int] = set()
        for receipt in self.image_shards(0, stop) if shards is None else shards:
            every = range(receipt.start, min(receipt.stop, stop))
            found.update(index for index in every if self.keeps(receipt, index))
        return sorted(found)

    def find_images(self, indices: Iterable[int]) -> Iterator[tuple[int, images.Images]]:
        """(sample_index, pixels) of those of the samples whose pixels are stored, by shard.

        Each shard that holds one is read once, and no other sample is decoded.

        Raises:
            CorruptionError: stored pixels are not the recorded ones.
        """
        missing = set(indices)
        low, high = min(missing, default=0), max(missing, default=-1) + 1
        for receipt in self.image_shards(low, high):
            wanted = {index for index in missing if self.keeps(receipt, index)}
            missing -= wanted
            for index, image in self.read_shard(receipt, wanted) if wanted else ():
                if image is None:
                    raise CorruptionError(f"{self.root}: shard lacks the pixels of sample {index}")
                yield index, image

    def image_shards(self, start: int = 0, stop: int | None = None) -> list[ReceiptHead]:
        """Shards of start..stop-1 in which pixels may be stored; see `keeps`."""
        return [*self.committed(IMAGES, start, stop), *self.committed(PIXELS, start, stop)]

    def keeps(self, receipt: ReceiptHead, index: int) -> bool:
        """Whether a shard holds the pixels of a sample."""
        if not receipt.start <= index < receipt.stop:
            return False
        kept: Any = "all" if receipt.stage == PIXELS else receipt.kept
        return kept is not None and images.is_kept(kept, self.plan, index)

    def num_asked(self, attempts: Iterable[Mapping[str, Any]] | None = None) -> int:
        """The largest number of samples that an invocation asked for.

        Args:
            attempts: the files of all invocations, where they have been read.

        Raises:
            CorruptionError: a file of an invocation is damaged.
            UsageError: no invocation left a readable count.
        """
        if attempts is None:
            attempts = self.attempts()
        counts = [attempt.get("resolved", {}).get("num_samples") for attempt in attempts]
        known = [count for count in counts if isinstance(count, int)]
        if not known:
            raise UsageError(f"{self.root} does not say how many samples: give --num-samples")
        return max(known)

    def attempts(self) -> list[dict[str, Any]]:
        """What all invocations have noted, in the order of their names.

        Raises:
            CorruptionError: one cannot be read.
        """
        found, damaged = self.readable_attempts()
        if damaged:
            raise CorruptionError(damaged[0])
        return found

    def readable_attempts(self) -> tuple[list[dict[str, Any]], list[str]]:
        """As `attempts`, and in one line each what is wrong with the others."""
        files, damaged = self.readable_json_files("attempts")
        faults = {name: fault_of_attempt(content) for name, content in files.items()}
        damaged += [
            f"{self.root}/attempts/{name} is damaged ({fault}): remove it"
            for name, fault in faults.items()
            if fault is not None
        ]
        return [content for name, content in files.items() if faults[name] is None], damaged

    def write_json(self, relative: str, value: object) -> None:
        """Write or replace a JSON file."""
        self.storage.replace(relative, (json.dumps(value, indent=1) + "\n").encode())

    def read_json_folder(self, folder: str) -> list[dict[str, Any]]:
        """All JSON objects directly in a folder, in the order of their names."""
        return list(self.read_json_files(folder).values())

    def read_json_files(self, folder: str) -> dict[str, dict[str, Any]]:
        """As `read_json_folder`, by the names of the files.

        Raises:
            CorruptionError: one is no JSON object.
        """
        found, damaged = self.readable_json_files(folder)
        if damaged:
            raise CorruptionError(damaged[0])
        return found

    def readable_json_files(self, folder: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """As `read_json_files`, and in one line each what is wrong with the others."""
        found, damaged = {}, []
        names = self.storage.names(folder, ".json")
        contents = self.storage.contents(f"{folder}/{name}" for name in names)
        for name, data in zip(names, contents, strict=True):
            where = f"{self.root}/{folder}/{name}"
            try:
                content = parse_json(data)
            except ValueError:
                damaged.append(f"{where} is not JSON: remove it")
                continue
            if isinstance(content, dict):
                found[name] = content
            else:
                damaged.append(f"{where} is no JSON object: remove it")
        return found, damaged


def is_run(place: Place) -> bool:
    """Whether a run lies there.

    Raises:
        StorageError: the place cannot be looked at.
    """
    return open_storage(place).exists("manifest.json")


def _claimed_in(content: bytes, where: str) -> dict[str, Any]:
    """The content of numerics.json, which has `numerics_id` and `numerics`."""
    try:
        claimed: dict[str, Any] = parse_json(content)
        if isinstance(claimed["numerics_id"], str) and isinstance(claimed["numerics"], dict):
            return claimed
        reason = "its fields are of another kind"
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise CorruptionError(
        f"{where} is damaged ({reason}): write `numerics_id` and `numerics` of any file in"
        " receipts/images/ into it, or remove it if there is none"
    )


def _check_same_numerics(first: dict[str, Any], numerics: dict[str, Any], own_id: str) -> None:
    if first["numerics_id"] == own_id:
        return
    theirs = first["numerics"]
    named = ", ".join(
        f"{key}: {theirs.get(key)} there, {numerics.get(key)} here"
        for key in sorted(theirs.keys() | numerics.keys())
        if theirs.get(key) != numerics.get(key)
    )
    raise EnvironmentProblem(
        f"this run holds samples of other numerics ({named}), whose last bits may differ:"
        " use the same kind of machine, or --allow-mixed-numerics"
    )


def gaps_of(covered: Sequence[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of start..stop-1 that no range of `covered` holds."""
    gaps = []
    at = start
    for low, high in sorted(covered):
        if low > at:
            gaps.append((at, min(low, stop)))
        at = max(at, high)
        if at >= stop:
            break
    if at < stop:
        gaps.append((at, stop))
    return [(low, high) for low, high in gaps if low < high]
