"""A worker: loads the models once, then computes and commits shards. A plain class, without Ray.

Three threads may use it at once: one calls `compute`, one `commit` (for the same task, which it
drains from a bounded buffer), one `progress`.
"""

import itertools
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalsuite.artifacts.images import ImageRows, pixel_sha256
from evalsuite.artifacts.near import NearReceipts
from evalsuite.artifacts.receipts import (
    Receipt,
    ReceiptFile,
    ReceiptHead,
    commit_receipt,
    cover,
    digest_of_pixels,
)
from evalsuite.artifacts.run_directory import (
    CONDITIONS,
    IMAGES,
    RunDirectory,
    feature_stage,
    gaps_of,
)
from evalsuite.config import ExtractorSpec, names_of
from evalsuite.errors import DataError, EvalsuiteError, ReproducibilityError, StorageError
from evalsuite.features.aligned import AlignedExtractor
from evalsuite.features.base import Extractor
from evalsuite.features.registry import build_extractor
from evalsuite.pipeline.channel import Channel, Closed
from evalsuite.pipeline.device_faults import device_faults, wait_for_memory
from evalsuite.pipeline.extractor_weights import extractor_weights_sha256
from evalsuite.pipeline.generation import BatchSampler, GeneratedBatch
from evalsuite.pipeline.materials import Materials
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.repair import REPLACED, set_aside
from evalsuite.pipeline.stages import STAGE_VERSION, OutputFormat, Produced, Sink, open_sink
from evalsuite.seeding import labels_of, seeds_of

BUFFERED_BATCHES = 4


@dataclass(frozen=True)
class WorkerJob:
    """All that a worker needs to know; it travels to other machines."""

    run_root: str
    materials: Materials
    extractors: tuple[ExtractorSpec, ...]
    output: OutputFormat
    device: str
    allow_mixed_numerics: bool = False


class NotStartedError(EvalsuiteError):
    """A shard that was handed to a worker which is stopping."""


@dataclass(frozen=True)
class CommitReport:
    """What became of one attempt: stages committed, and stages that another attempt had done."""

    task: ShardTask
    committed: tuple[str, ...]
    discarded: tuple[str, ...]
    seconds: float


class ShardWorker:
    """Computes shards of one plan on one device."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._channels: dict[str, Channel[Produced]] = {}
        self._costs: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._images_done = 0
        self._stopping = False

    def load(self) -> dict[str, Any]:
        """Load the model and the extractors, after checking their digests; gives `describe`.

        Raises:
            EvalsuiteError: weights, device or run directory are not as they should be.
        """
        job = self._job
        self._run = RunDirectory.open(job.run_root)
        self._near = NearReceipts(self._run.storage, self._run.manifest.plan_id)
        self._device = resolve_device(job.device)
        if self._device.type == "cuda":
            wait_for_memory(lambda: torch.cuda.mem_get_info(self._device))
        with device_faults(self._device, self._run.plan.batch_size):
            self._load_networks()
        return self.describe()

    def _load_networks(self) -> None:
        job, manifest = self._job, self._run.manifest
        self._sampler = BatchSampler(
            manifest.plan, job.materials, self._device, self._run.root / CONDITIONS
        )
        if not job.allow_mixed_numerics:
            self._run.check_numerics(self._sampler.numerics, self._sampler.numerics_id)
        self._extractors: dict[str, Extractor] = {
            feature_stage(spec.extractor_id): load_extractor(spec, self._device)
            for spec in job.extractors
        }

    def describe(self) -> dict[str, Any]:
        """Who this worker is and what decides its bits."""
        return {
            "host": platform.node(),
            "pid": os.getpid(),
            "device": str(self._device),
            "numerics": self._sampler.numerics,
            "numerics_id": self._sampler.numerics_id,
        }

    def progress(self) -> int:
        """Images computed since the worker started."""
        return self._images_done

    def stop(self) -> None:
        """Finish the shard in hand and begin no other."""
        self._stopping = True

    def withdraw(self, attempt_id: str) -> None:
        """End an attempt whose shard another worker has committed; its files are removed."""
        self._channel(attempt_id).withdraw()

    def compute(self, task: ShardTask, attempt_id: str) -> None:
        """Compute every batch of `task` into the buffer that `commit` drains."""
        channel = self._channel(attempt_id)
        began = time.monotonic()
        try:
            if self._stopping:
                raise NotStartedError(f"samples {task.start}..{task.stop - 1} were not begun")
            if channel.is_closed:
                return
            with device_faults(self._device, self._run.plan.batch_size):
                nfe = self._produce(task, channel)
            self._costs[attempt_id] = (nfe, time.monotonic() - began)
            channel.put(None)
        except Closed:
            return
        except EvalsuiteError as error:
            self._fail(channel, error)
        except (
            Exception
        ) as error:  # the worker boundary: the fault goes to `commit`, which raises it
            self._fail(channel, error)
            raise

    def commit(self, task: ShardTask, attempt_id: str) -> CommitReport:
        """Write what `compute` gives for `task` and commit it, stage by stage.

        Raises:
            EvalsuiteError: whatever `compute` met, or the storage; nothing of the attempt is left
                but stages that were committed before.
        """
        channel = self._channel(attempt_id)
        began = time.monotonic()
        sinks: dict[str, Sink] = {}
        try:
            output = replace(self._job.output, keep=task.keep or self._job.output.keep)
            for stage in task.stages:
                sinks[stage] = open_sink(
                    stage, self._run.storage, task, attempt_id, self._run.plan, output
                )
            hashes = self._drain(channel, sinks)
            self._check_known(task, hashes)
            report = self._commit_all(task, attempt_id, sinks, hashes, began)
        except BaseException:
            channel.abandon()  # it stays known, so that `compute` ends even if it begins later
            for sink in sinks.values():
                sink.abandon()
            raise
        with self._lock:
            self._channels.pop(attempt_id, None)
            self._costs.pop(attempt_id, None)
        return report

    def _produce(self, task: ShardTask, channel: Channel[Produced]) -> int:
        aligned = {
            stage: AlignedExtractor(self._extractors[stage])
            for stage in task.stages
            if stage in self._extractors
        }
        nfe = 0
        for batch in self._batches(task):
            rows, nfe = batch
            hashes = [pixel_sha256(image) for image in rows.images_NHWC]
            features = {s: a.push(rows.start, rows.images_NHWC) for s, a in aligned.items()}
            channel.put(Produced(rows, hashes, features))
            channel.num_images += len(hashes)
            self._images_done += len(hashes)
        channel.put(Produced(None, features={s: a.flush() for s, a in aligned.items()}))
        return nfe

    def _batches(self, task: ShardTask) -> Iterator[GeneratedBatch]:
        """The batches of `task`, from stored pixels when all of them were kept, or computed."""
        size = self._run.plan.batch_size
        kept = [] if IMAGES in task.stages else self._near.kept_pixels(task.start, task.stop)
        covered = [(part.start, part.stop) for part in cover(kept, task.start, task.stop)]
        if not gaps_of(covered, task.start, task.stop):
            yield from stored_batches(self._run, task.start, task.stop, kept)
            return
        for start in range(task.start, task.stop, size):
            yield self._sampler.batch(start // size)

    def _drain(self, channel: Channel[Produced], sinks: dict[str, Sink]) -> list[str]:
        hashes: list[str] = []
        for produced in channel:
            hashes.extend(produced.hashes)
            for sink in sinks.values():
                sink.write(produced)
        return hashes

    def _check_known(self, task: ShardTask, hashes: list[str]) -> None:
        """Pixels that were committed before must have come out the same."""
        numerics_id = self._sampler.numerics_id
        known = set_aside(self._run, IMAGES, numerics_id, task.start, task.stop)
        if IMAGES not in task.stages:
            known += self._near.receipts(IMAGES, task.start, task.stop)
        for receipt in known:
            low, high = max(receipt.start, task.start), min(receipt.stop, task.stop)
            for index in range(low, high):
                if receipt.pixel_sha256[index - receipt.start] != hashes[index - task.start]:
                    raise ReproducibilityError(
                        f"sample {index} came out with other pixels than attempt"
                        f" {receipt.attempt_id} committed; nothing was written: if those were"
                        f" wrong, remove {self._run.root}/{REPLACED} and run again"
                    )

    def _commit_all(
        self,
        task: ShardTask,
        attempt_id: str,
        sinks: dict[str, Sink],
        hashes: list[str],
        began: float,
    ) -> CommitReport:
        """Commit stage by stage; a stage that is done leaves `sinks` and is not abandoned."""
        files = {stage: sink.finish() for stage, sink in sinks.items()}
        nfe, compute_s = self._costs.get(attempt_id, (0, 0.0))
        about = self.describe()
        if not self._job.allow_mixed_numerics:
            self._run.claim_numerics(about["numerics"], about["numerics_id"])
        self._check_still_there(files)
        committed: list[str] = []
        discarded: list[str] = []
        for stage, sink in list(sinks.items()):
            receipt = Receipt(
                plan_id=self._run.manifest.plan_id,
                stage=stage,
                stage_version=STAGE_VERSION,
                start=task.start,
                stop=task.stop,
                attempt_id=attempt_id,
                files=files[stage],
                kept=sink.kept,
                pixel_sha256=tuple(hashes) if stage == IMAGES else (),
                pixels_digest=digest_of_pixels(hashes),
                nfe=nfe,
                seconds={
                    "compute": round(compute_s, 4),
                    "total": round(time.monotonic() - began, 4),
                },
                numerics_id=about["numerics_id"],
                numerics=about["numerics"],
                worker={key: about[key] for key in ("host", "pid", "device")},
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            done = commit_receipt(self._run.storage, receipt)
            (committed if done else discarded).append(stage)
            del sinks[stage]
        return CommitReport(task, tuple(committed), tuple(discarded), time.monotonic() - began)

    def _check_still_there(self, files: Mapping[str, Sequence[ReceiptFile]]) -> None:
        """A receipt must not name files that someone removed meanwhile."""
        for file in itertools.chain.from_iterable(files.values()):
            if self._run.storage.size(file.path) != file.num_bytes:
                raise StorageError(
                    f"{self._run.root}/{file.path} was removed or cut before it was committed"
                    " (by `gc --force`?): run the same command again"
                )

    def _channel(self, attempt_id: str) -> Channel[Produced]:
        with self._lock:
            return self._channels.setdefault(attempt_id, Channel(BUFFERED_BATCHES))

    @staticmethod
    def _fail(channel: Channel[Produced], error: Exception) -> None:
        try:
            channel.fail(error)
        except Closed:
            return


def stored_batches(
    run: RunDirectory, start: int, stop: int, kept: Sequence[ReceiptHead]
) -> Iterator[GeneratedBatch]:
    """Batches whose pixels are read from the shards of `kept`; they cost no evaluation."""
    pixels = run.read_images(start, stop, kept)
    for at in range(start, stop, run.plan.batch_size):
        end = min(at + run.plan.batch_size, stop)
        images = np.stack([image for _, image in itertools.islice(pixels, end - at)])
        labels = labels_of(run.plan, at, end, run.manifest.file_labels)
        seeds, prompts = seeds_of(run.plan, at, end), run.manifest.prompts
        shown = [prompts[label] for label in labels] if prompts else None
        yield GeneratedBatch(ImageRows(at, seeds, labels, images, shown), 0)


def load_extractor(spec: ExtractorSpec, device: torch.device) -> Extractor:
    """The extractor with its weights checked against their digest.

    Raises:
        DataError: the weights are missing or other ones.
    """
    return build_extractor(spec, check_extractor_weights(spec), device)


def check_extractor_weights(spec: ExtractorSpec) -> Path:
    """Where the extractor's weights are, once their digest has been checked.

    That is the file beside its YAML or given by hand, else the first of its places that this
    machine's cache holds.

    Raises:
        DataError: they are missing or other ones.
    """
    if spec.weights.file is None:
        return _fetched_weights(spec)
    path = spec.path.parent / spec.weights.file
    if not path.exists():
        raise DataError(f"extractor {spec.name}: weights {path} do not exist")
    return _checked(spec, path)


def _checked(spec: ExtractorSpec, path: Path) -> Path:
    if extractor_weights_sha256(path) not in spec.weights.accepted_sha256:
        raise DataError(f"extractor {spec.name}: {path} has another SHA-256 than expected")
    return path


def _fetched_weights(spec: ExtractorSpec) -> Path:
    from evalsuite.artifacts.downloads import cached_file

    if not spec.weights.places:
        raise DataError(f"extractor {spec.name}: give its weights with --extractor-weights")
    found = (cached_file(place) for place in spec.weights.places)
    path = next((path for path in found if path is not None), None)
    if path is not None:
        return _checked(spec, path)
    called = spec.name if spec.name in names_of(ExtractorSpec) else spec.path
    raise DataError(
        f"extractor {spec.name}: its weights are not on this machine: fetch them with `evalsuite"
        f" extractors fetch {called}` or give the file with --extractor-weights"
    )
