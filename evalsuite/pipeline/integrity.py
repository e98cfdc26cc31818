"""Finding stored bytes that are not what their receipts name, and taking them out of a run."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.artifacts.images import Images, pixel_sha256
from evalsuite.artifacts.receipts import Receipt, Slice, cover, read_receipt
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.generation import BatchSampler


@dataclass(frozen=True)
class Fault:
    """A receipt whose files, or whose own text, cannot be trusted."""

    receipt_name: str
    receipt: Receipt | None
    text: str


@dataclass(frozen=True)
class BatchCheck:
    """One recomputed batch."""

    start: int
    stop: int
    differing: tuple[int, ...]
    """Samples whose pixels came out otherwise than the receipts say."""
    same_numerics: bool
    max_difference: int | None
    """Largest difference in grey levels against stored pixels; None when none are stored."""
    mean_difference: float | None


def stages_of(run: RunDirectory) -> list[str]:
    """The stages that have receipts."""
    present = [s for s in (IMAGES, PIXELS) if run.storage.names(f"receipts/{s}", ".json")]
    return present + run.feature_stages()


def find_faults(run: RunDirectory) -> list[Fault]:
    """Check every committed file of every stage against its receipt."""
    faults = []
    for stage in stages_of(run):
        for name in run.storage.names(f"receipts/{stage}", ".json"):
            place = f"receipts/{stage}/{name}"
            fault = _fault_of(run, place)
            if fault is not None:
                faults.append(fault)
    return faults


def _fault_of(run: RunDirectory, place: str) -> Fault | None:
    try:
        receipt = read_receipt(run.storage, place)
    except CorruptionError as error:
        return Fault(place, None, str(error))
    if receipt.plan_id != run.manifest.plan_id:
        return Fault(place, receipt, f"{run.root / place} belongs to another plan")
    for file in receipt.files:
        text = run.storage.fault_of(file.entry)
        if text is not None:
            return Fault(place, receipt, text)
    return None


def take_out(run: RunDirectory, faults: Sequence[Fault]) -> list[Receipt]:
    """Remove faulty shards, so that they are made again; gives the readable old receipts."""
    for fault in faults:
        run.storage.delete(fault.receipt_name)
        for file in fault.receipt.files if fault.receipt else ():
            run.storage.delete(file.path)
    return [f.receipt for f in faults if f.receipt and f.receipt.plan_id == run.manifest.plan_id]


def choose_batches(run: RunDirectory, count: int) -> list[int]:
    """Random batches among those that are committed, in order."""
    size = run.plan.batch_size
    batches = [b for r in run.receipts(IMAGES) for b in range(r.start // size, r.stop // size)]
    unique = sorted(set(batches))
    return sorted(random.SystemRandom().sample(unique, min(count, len(unique))))


def check_batch(run: RunDirectory, sampler: BatchSampler, batch_index: int) -> BatchCheck:
    """Recompute one batch and compare it with what is committed."""
    size = run.plan.batch_size
    start, stop = batch_index * size, (batch_index + 1) * size
    images = sampler.batch(batch_index).rows.images_NHWC
    hashes = [pixel_sha256(image) for image in images]
    parts = cover(run.receipts(IMAGES), start, stop)
    differing = [
        index
        for part in parts
        for index in range(part.start, part.stop)
        if part.receipt.pixel_sha256[index - part.receipt.start] != hashes[index - start]
    ]
    same = all(part.receipt.numerics_id == sampler.numerics_id for part in parts)
    worst, mean = _distance(run, parts, images, start)
    return BatchCheck(start, stop, tuple(differing), same, worst, mean)


def _distance(
    run: RunDirectory, parts: Sequence[Slice], images: Images, start: int
) -> tuple[int | None, float | None]:
    ours = images.astype(np.int16)
    differences = []
    for part in parts:
        if not part.receipt.files or part.receipt.kept == "none":
            continue
        for index, image in run.read_shard(part.receipt):
            if image is not None and part.start <= index < part.stop:
                differences.append(np.abs(ours[index - start] - image.astype(np.int16)))
    if not differences:
        return None, None
    stacked = np.stack(differences)
    return int(stacked.max()), float(stacked.mean())


def garbage_files(run: RunDirectory) -> list[str]:
    """Image and feature files that no receipt names: attempts that lost a race or were killed."""
    named = {f.path for stage in stages_of(run) for r in run.receipts(stage) for f in r.files}
    folders = ["images", *(f"features/{name}" for name in run.storage.folders("features"))]
    present = [f"{folder}/{name}" for folder in folders for name in run.storage.names(folder)]
    return [path for path in present if path not in named]
