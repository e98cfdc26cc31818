"""Stages: kinds of work over ranges, each with a sink that turns batches into committed files.

A stage is a name, a version and a sink. `images` writes pixel hashes and the images that are kept,
`pixels` the images that an earlier invocation left out, `features/<extractor_id>` the features of
one extractor. A later kind of work (detections) is one more sink and one line in `open_sink`.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evalsuite.artifacts.features import FeatureTable, encode_features
from evalsuite.artifacts.images import (
    ImageRows,
    NpzImageWriter,
    ParquetImageWriter,
    ShardFormat,
    Spread,
)
from evalsuite.artifacts.receipts import Keep, ReceiptFile, range_name
from evalsuite.artifacts.run_directory import IMAGES, PIXELS
from evalsuite.artifacts.storage import Storage
from evalsuite.config import Plan
from evalsuite.features.aligned import concatenate
from evalsuite.features.base import FeatureBatch
from evalsuite.pipeline.ranges import ShardTask

STAGE_VERSION = 1


@dataclass(frozen=True)
class Produced:
    """What one batch gave: its rows, and features that are complete by now."""

    rows: ImageRows | None
    features: dict[str, list[FeatureBatch]] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputFormat:
    """How images are stored; not part of the plan."""

    keep: Keep
    shard_format: ShardFormat


class Sink(Protocol):
    """Writes one stage of one attempt."""

    kept: str | None

    def write(self, produced: Produced, hashes: Sequence[str]) -> None:
        """Take what a batch gave, and the hashes of its pixels."""
        ...

    def finish(self) -> tuple[ReceiptFile, ...]:
        """Flush the data files to the disk and name them."""
        ...

    def abandon(self) -> None:
        """Remove what was written."""
        ...


class _UnwantedError(Exception):
    """Ends the writing of a file that nobody wants any more."""


class ImageSink:
    """An image shard; with keep `none` its rows hold hashes alone."""

    def __init__(
        self,
        storage: Storage,
        task: ShardTask,
        attempt_id: str,
        plan: Plan,
        output: OutputFormat,
        spread: Spread = map,
    ) -> None:
        self.kept: str | None = output.keep
        suffix = output.shard_format
        self._path = f"images/{range_name(task.start, task.stop)}-{attempt_id}.{suffix}"
        self._storage = storage
        self._stack = contextlib.ExitStack()
        self._target = self._stack.enter_context(storage.create(self._path))
        self._writer: ParquetImageWriter | NpzImageWriter
        if output.shard_format == "npz":
            self._writer = NpzImageWriter(self._target, task.stop - task.start, plan.size)
        else:
            self._writer = ParquetImageWriter(self._target, output.keep, plan, spread)

    def write(self, produced: Produced, hashes: Sequence[str]) -> None:
        """Append the images of a batch."""
        if produced.rows is not None:
            self._writer.write(produced.rows, hashes)

    def finish(self) -> tuple[ReceiptFile, ...]:
        """Close and flush the shard."""
        self._writer.close()
        self._stack.close()
        target = self._target
        return (ReceiptFile(path=self._path, num_bytes=target.num_bytes, sha256=target.sha256),)

    def abandon(self) -> None:
        """Give the shard up, or remove it when it was finished."""
        unwanted = _UnwantedError()
        with contextlib.suppress(Exception):  # or its end of life complains of a closed file
            self._writer.close()
        with contextlib.suppress(Exception):  # told as a failure, or a store would show it first
            self._stack.__exit__(_UnwantedError, unwanted, None)
        self._storage.delete(self._path)


class FeatureSink:
    """A feature shard of one extractor."""

    kept: str | None = None

    def __init__(self, storage: Storage, task: ShardTask, attempt_id: str, stage: str) -> None:
        self._storage, self._task, self._stage = storage, task, stage
        self._path = f"{stage}/{range_name(task.start, task.stop)}-{attempt_id}.safetensors"
        self._batches: list[FeatureBatch] = []

    def write(self, produced: Produced, hashes: Sequence[str]) -> None:  # noqa: ARG002
        """Keep the features of a batch; a shard of features is small."""
        self._batches.extend(produced.features.get(self._stage, []))

    def finish(self) -> tuple[ReceiptFile, ...]:
        """Write and flush the shard."""
        content = encode_features(FeatureTable(self._task.start, *concatenate(self._batches)))
        with self._storage.create(self._path) as target:
            target.write(content)
        return (ReceiptFile(path=self._path, num_bytes=target.num_bytes, sha256=target.sha256),)

    def abandon(self) -> None:
        """Remove the shard."""
        self._storage.delete(self._path)


def open_sink(
    stage: str,
    storage: Storage,
    task: ShardTask,
    attempt_id: str,
    plan: Plan,
    output: OutputFormat,
    spread: Spread,
) -> Sink:
    """The sink of a stage for one attempt."""
    if stage == IMAGES:
        return ImageSink(storage, task, attempt_id, plan, output, spread)
    if stage == PIXELS:
        everything = OutputFormat(keep="all", shard_format=output.shard_format)
        return ImageSink(storage, task, attempt_id, plan, everything, spread)
    return FeatureSink(storage, task, attempt_id, stage)
