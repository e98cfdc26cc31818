"""A worker: loads the models once, then computes and commits shards. A plain class, without Ray.

Four threads may use it at once. Three carry each shard on, through bounded buffers: `prepare` draws
noise and reads prompts' features ahead, `compute` keeps the GPU busy, `commit` hashes, encodes,
writes and commits. So a shard begins while the one before it is computed and ends while the one
after it is. The fourth asks for `progress`. Each of the three takes the shards in the same order.
"""

import gc
import itertools
import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalsuite.artifacts.images import ImageRows
from evalsuite.artifacts.near import NearReceipts
from evalsuite.artifacts.receipts import ReceiptHead, cover
from evalsuite.artifacts.run_directory import (
    CONDITIONS,
    IMAGES,
    RunDirectory,
    feature_stage,
    gaps_of,
)
from evalsuite.config import ExtractorSpec, Plan, canonical_json, names_of
from evalsuite.errors import DataError, EvalsuiteError
from evalsuite.features.aligned import AlignedExtractor
from evalsuite.features.base import Extractor
from evalsuite.features.registry import build_extractor
from evalsuite.pipeline.channel import Channel
from evalsuite.pipeline.committing import Attempt, Cost
from evalsuite.pipeline.device_faults import device_faults, wait_for_memory
from evalsuite.pipeline.energy import EnergyMeter, between
from evalsuite.pipeline.extractor_weights import extractor_weights_sha256
from evalsuite.pipeline.generation import BatchInputs, BatchSampler, GeneratedBatch
from evalsuite.pipeline.materials import Materials
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat, Produced
from evalsuite.seeding import labels_of, seeds_of

PREPARED_BATCHES = 1
"""Batches whose noise waits for the GPU, besides the one that is being drawn; of each shard ..."""
BUFFERED_BATCHES = 4
"""... and batches of images that wait to be written."""
ENCODING_THREADS = 4
"""Of a worker with a GPU: one encodes 60 PNGs of 256 x 256 in a second, 14 of 512 x 512 (measured);
a worker without one shares the cores with others."""


@dataclass(frozen=True)
class WorkerJob:
    """All that a worker needs to know; it travels to other machines."""

    run_root: str
    materials: Materials
    extractors: tuple[ExtractorSpec, ...]
    output: OutputFormat
    device: str
    allow_mixed_numerics: bool = False


def networks_of(plan: Plan, job: WorkerJob) -> tuple[object, ...]:
    """What a worker's loaded networks, and memory for their batches, depend on.

    Of a plan everything but seeds, labels and what our samplers are told at each call. A model that
    brings its own sampler may keep anything of its settings, so those all count.
    """
    fields = plan.model_dump(mode="json", exclude={"first_seed", "labels", "classes"})
    if plan.sampling is not None:
        fields["sampling"] = {"dtype": plan.sampling.dtype, "t_eps": plan.sampling.t_eps}
    materials = replace(job.materials, file_labels=None)
    return canonical_json(fields), materials, job.extractors


def kin_of(plan: Plan, job: WorkerJob) -> tuple[object, ...]:
    """`networks_of` but for the denoiser's weights, which a process can load in place of others.

    A model that brings its own sampler may keep anything of its weights, so those count.
    """
    if plan.sampling is None:
        return networks_of(plan, job)
    any_weights = plan.model_copy(update={"weights_sha256": "", "ema": ""})
    return networks_of(any_weights, replace(job, materials=replace(job.materials, weights=None)))


class NotStartedError(EvalsuiteError):
    """A shard that was handed to a worker which is stopping."""


@dataclass(frozen=True)
class CommitReport:
    """What became of one attempt: stages committed, and stages that another attempt had done."""

    task: ShardTask
    """What was made: less than was handed out where the worker was stopped."""
    committed: tuple[str, ...]
    discarded: tuple[str, ...]
    seconds: float
    joules: float | None = None
    """Energy of the GPU while it computed; None where it was not measured."""


class _Handover:
    """What the three threads hand to each other for one attempt."""

    def __init__(self) -> None:
        self.prepared: Channel[BatchInputs | GeneratedBatch] = Channel(PREPARED_BATCHES)
        self.produced: Channel[Produced] = Channel(BUFFERED_BATCHES)
        self.cost = Cost()


class ShardWorker:
    """Computes shards of one plan on one device."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._handovers: dict[str, _Handover] = {}
        self._lock = threading.Lock()
        self._images_done = 0
        self._stopping = False

    def load(self) -> dict[str, Any]:
        """Load the model and the extractors, after checking their digests; gives `describe`.

        With it goes `loading_s`, the seconds that it took.

        Raises:
            EvalsuiteError: weights, device or run directory are not as they should be.
        """
        job = self._job
        self._run = RunDirectory.open(job.run_root)
        self._near = NearReceipts(self._run.storage, self._run.manifest.plan_id)
        self._device = resolve_device(job.device)
        began, self._meter = time.monotonic(), EnergyMeter(self._device)
        if self._device.type == "cuda":
            wait_for_memory(lambda: torch.cuda.mem_get_info(self._device))
        with device_faults(self._device, self._run.plan.batch_size):
            self._load_networks()
        return {**self.describe(), "loading_s": round(time.monotonic() - began, 3), "loads": 1}

    def retarget(self, job: WorkerJob) -> dict[str, Any]:
        """Turn to another plan of the same networks, or of other weights; gives as `load` does.

        Networks of the same weights stay as they are; of others the denoiser is loaded anew, and
        the extractors stay. Nothing may be in hand. The threads of an attempt that was withdrawn
        may still be at their last batch: `compute` is before this in its group, and what `prepare`
        draws goes nowhere, for the attempt stays known as withdrawn.

        Raises:
            EvalsuiteError: weights or run directory are not as they should be.
            ValueError: the networks are others.
        """
        run = RunDirectory.open(job.run_root)
        before, began = (self._run.plan, self._job), time.monotonic()
        if (*kin_of(*before), self._job.device) != (*kin_of(run.plan, job), job.device):
            raise ValueError("a worker cannot turn to a plan of other networks")
        same = networks_of(*before) == networks_of(run.plan, job)
        self._job, self._run, self._images_done = job, run, 0
        self._near = NearReceipts(run.storage, run.manifest.plan_id)
        if not same:
            self._let_go_of_model()
        with device_faults(self._device, run.plan.batch_size):
            if same:
                self._sampler.retarget(run.plan, job.materials, run.root / CONDITIONS)
            else:
                self._load_model()
        self._check_numerics()
        loading_s = 0.0 if same else round(time.monotonic() - began, 3)
        return {**self.describe(), "loading_s": loading_s, "loads": int(not same)}

    def _let_go_of_model(self) -> None:
        """Free the memory of the network, so that two are never held."""
        self._sampler.unload()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_numerics(self) -> None:
        if not self._job.allow_mixed_numerics:
            self._run.check_numerics(self._sampler.numerics, self._sampler.numerics_id)

    def _load_model(self) -> None:
        self._sampler = BatchSampler(
            self._run.plan, self._job.materials, self._device, self._run.root / CONDITIONS
        )

    def _load_networks(self) -> None:
        job = self._job
        self._load_model()
        self._check_numerics()
        self._extractors: dict[str, Extractor] = {
            feature_stage(spec.extractor_id): load_extractor(spec, self._device)
            for spec in job.extractors
        }
        on_gpu = self._device.type == "cuda"
        self._encoders = ThreadPoolExecutor(ENCODING_THREADS if on_gpu else 1, "encode")

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
        """Finish the batch in hand, let what is computed of its shard commit, and begin no other.

        A shard in NPZ is finished whole: its file says at the beginning how many images it holds.
        """
        self._stopping = True

    def withdraw(self, attempt_id: str) -> None:
        """End an attempt whose shard another worker has committed; its files are removed."""
        handover = self._handover(attempt_id)
        handover.produced.withdraw()
        handover.prepared.withdraw()

    def prepare(self, task: ShardTask, attempt_id: str) -> None:
        """Draw the noise of every batch of `task`, ahead of `compute`, which must be called too."""
        prepared = self._handover(attempt_id).prepared
        with prepared.feeding():
            self._check_going_on(task)
            for batch in self._batches(task):
                prepared.put(batch)

    def compute(self, task: ShardTask, attempt_id: str) -> None:
        """Compute every batch that `prepare` gives into the buffer that `commit` drains."""
        handover = self._handover(attempt_id)
        with handover.produced.feeding():
            try:
                self._check_going_on(task)
                began, energy = time.monotonic(), self._meter.joules()
                with device_faults(self._device, self._run.plan.batch_size):
                    nfe = self._produce(task, handover)
                joules = between(energy, self._meter.joules())
                handover.cost = Cost(nfe, time.monotonic() - began, joules)
            finally:
                handover.prepared.abandon()

    def commit(self, task: ShardTask, attempt_id: str) -> CommitReport:
        """Write what `compute` gives for `task` and commit it, stage by stage.

        Raises:
            EvalsuiteError: whatever `prepare` or `compute` met, or the storage; nothing of the
                attempt is left but stages that were, or may have been, committed before.
        """
        handover = self._handover(attempt_id)
        began = time.monotonic()
        output = replace(self._job.output, keep=task.keep or self._job.output.keep)
        attempt = Attempt(self._run, task, attempt_id, output, self._encoders.map, self._near)
        try:
            attempt.write(handover.produced)
            done = attempt.commit(
                self.describe(), handover.cost, allow_mixed=self._job.allow_mixed_numerics
            )
        except BaseException:
            # it stays known, so that `compute` ends even if it begins later
            handover.produced.abandon()
            attempt.abandon()
            raise
        with self._lock:
            self._handovers.pop(attempt_id, None)
        total_s, joules = time.monotonic() - began, handover.cost.joules
        return CommitReport(attempt.task, done.stages, done.discarded, total_s, joules)

    def _check_going_on(self, task: ShardTask) -> None:
        if self._stopping:
            raise NotStartedError(f"samples {task.start}..{task.stop - 1} were not begun")

    def _produce(self, task: ShardTask, handover: _Handover) -> int:
        aligned = {
            stage: AlignedExtractor(self._extractors[stage])
            for stage in task.stages
            if stage in self._extractors
        }
        nfe = 0
        for batch in handover.prepared:
            rows, nfe = self._sampler.sample(batch) if isinstance(batch, BatchInputs) else batch
            features = {s: a.push(rows.start, rows.images_NHWC) for s, a in aligned.items()}
            handover.produced.put(Produced(rows, features))
            handover.produced.num_images += len(rows.images_NHWC)
            self._images_done += len(rows.images_NHWC)
            if self._stopping and self._job.output.shard_format != "npz":
                break
        rest = {stage: extractor.flush() for stage, extractor in aligned.items()}
        handover.produced.put(Produced(None, rest))
        return nfe

    def _batches(self, task: ShardTask) -> Iterator[BatchInputs | GeneratedBatch]:
        """The batches of `task`: read, when all their pixels were kept, or the noise of each."""
        size = self._run.plan.batch_size
        kept = [] if IMAGES in task.stages else self._near.kept_pixels(task.start, task.stop)
        covered = [(part.start, part.stop) for part in cover(kept, task.start, task.stop)]
        if not gaps_of(covered, task.start, task.stop):
            yield from stored_batches(self._run, task.start, task.stop, kept)
            return
        for start in range(task.start, task.stop, size):
            yield self._sampler.inputs(start // size)

    def _handover(self, attempt_id: str) -> _Handover:
        with self._lock:
            return self._handovers.setdefault(attempt_id, _Handover())


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
