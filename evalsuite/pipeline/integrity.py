"""Finding stored bytes that are not what their receipts name, and files that none names."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.artifacts.images import Images, pixel_sha256
from evalsuite.artifacts.receipts import Receipt, Slice, cover, range_of, read_receipt
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory, is_of_other_pixels
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.generation import BatchSampler

_TEMPORARY = (".probe-", ".nonce-", ".0", ".manifest.json.", ".numerics.json.")
"""How the names of our temporary files begin."""


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


def find_faults(
    run: RunDirectory,
    stages: Sequence[str] | None = None,
    start: int = 0,
    stop: int | None = None,
    *,
    thorough: bool = False,
) -> list[Fault]:
    """Check committed files against their receipts, of all stages or some over start..stop-1.

    Args:
        run: where they are.
        stages: which; all that have receipts when None.
        start: the first sample.
        stop: after the last one.
        thorough: read every byte from an object store too, whose sizes are believed otherwise.
    """
    faults: list[Fault] = []
    for stage in stages_of(run) if stages is None else stages:
        names = run.storage.names(f"receipts/{stage}", ".json")
        places = [f"receipts/{stage}/{name}" for name in names if _touches(name, start, stop)]
        faults += _faults_of(run, places, thorough=thorough)
    return faults + _mismatched(run, faults, stages, start, stop)


def _touches(name: str, start: int, stop: int | None) -> bool:
    try:
        low, high = range_of(name)
    except ValueError:
        return True
    return start < high and (stop is None or low < stop)


def _mismatched(
    run: RunDirectory,
    faults: Sequence[Fault],
    stages: Sequence[str] | None,
    start: int,
    stop: int | None,
) -> list[Fault]:
    """Features that were made from other pixels than the ones that are committed."""
    bad = {fault.receipt_name for fault in faults}
    found = [s for s in run.feature_stages() if stages is None or s in stages]
    try:
        images = run.receipts(IMAGES) if found else []
        receipts = [r for s in found for r in run.receipts(s, start, stop) if r.name not in bad]
    except CorruptionError:
        return []  # an unreadable receipt is a fault already; look again when it is gone
    return [
        Fault(r.name, r, f"{run.root}/{r.files[0].path} holds features of other pixels")
        for r in receipts
        if is_of_other_pixels(r, images)
    ]


def _faults_of(run: RunDirectory, places: Sequence[str], *, thorough: bool) -> list[Fault]:
    """Of receipts of one stage, in their order."""
    faults: dict[str, Fault] = {}
    receipts = []
    for place in places:
        try:
            receipt = read_receipt(run.storage, place)
        except CorruptionError as error:
            faults[place] = Fault(place, None, str(error))
            continue
        if receipt.plan_id == run.manifest.plan_id:
            receipts.append(receipt)
        else:
            text = f"{run.root / place} belongs to another plan"
            faults[place] = Fault(place, receipt, text)
    entries = [file.entry for receipt in receipts for file in receipt.files]
    texts = run.storage.faults_of(entries, thorough=thorough)
    for receipt in receipts:
        told = [texts[file.path] for file in receipt.files if file.path in texts]
        if told:
            faults[receipt.name] = Fault(receipt.name, receipt, told[0])
    return [faults[place] for place in places if place in faults]


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


def garbage_files(run: RunDirectory, older_than_s: float = 0.0) -> list[str]:
    """Files that no receipt names and that nobody wrote to for so long, relative to the run.

    Attempts that lost a race or were killed leave them: image and feature files, and hidden
    temporary files.
    """
    named = {f.path for stage in stages_of(run) for r in run.receipts(stage) for f in r.files}
    newest = time.time() - older_than_s
    found = []
    for file in run.storage.listing():
        is_data = file.path.startswith(("images/", "features/")) and file.path not in named
        is_hidden = file.path.rpartition("/")[2].startswith(_TEMPORARY)
        if (is_data or is_hidden) and file.modified_at <= newest:
            found.append(file.path)
    return found
