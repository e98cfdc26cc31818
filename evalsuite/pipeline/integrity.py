"""Finding stored bytes that are not what their receipts name, and files that none names."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.artifacts.images import Images, pixel_sha256
from evalsuite.artifacts.ledger import Reading
from evalsuite.artifacts.receipts import RangeIndex, Receipt, Slice, cover, read_receipt
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory
from evalsuite.artifacts.verified import Claim, FileChecker
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
    hash_all: bool = False,
) -> list[Fault]:
    """Check committed files against their receipts.

    Args:
        run: whose files.
        stages: the stages to look at; all by default.
        start: first sample.
        stop: one past the last sample; to the end by default.
        hash_all: read every file, also those that nobody changed since they were checked.
    """
    checker = FileChecker(run.storage, hash_all=hash_all)
    faults = []
    for stage in stages_of(run) if stages is None else stages:
        faults += _faults_of_stage(run, checker, stage, run.ledger.readings(stage, start, stop))
    return faults + _mismatched(run, faults, stages, start, stop)


def _faults_of_stage(
    run: RunDirectory, checker: FileChecker, stage: str, readings: Sequence[Reading]
) -> list[Fault]:
    """Faults in the order of the receipts, one for each."""
    found: dict[str, Fault] = {}
    claims = []
    for reading in readings:
        place = f"receipts/{stage}/{reading.name}"
        if reading.row is not None:
            head = reading.row.head()
            claims += [Claim(file.entry, head, reading.stamp) for file in head.files]
        elif (fault := _fault_of_receipt(run, place)) is not None:
            found[place] = fault
    for claim, text in checker.faults(claims):
        place = claim.receipt.name
        if place not in found and (receipt := _read_or_none(run, place)) is not None:
            found[place] = Fault(place, receipt, text)
    return [found[place] for place in sorted(found)]


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
        heads = [h for s in found for h in run.committed(s, start, stop) if h.name not in bad]
        low, high = (
            min((h.start for h in heads), default=0),
            max((h.stop for h in heads), default=0),
        )
        images = RangeIndex(run.ledger.rows(IMAGES, low, high))
    except CorruptionError:
        return []  # an unreadable receipt is a fault already; look again when it is gone
    mismatched = []
    for head in heads:
        digest = run.ledger.pixels_digest(images, head.start, head.stop)
        if digest not in (None, head.pixels_digest):
            text = f"{run.root}/{head.files[0].path} holds features of other pixels"
            mismatched.append(Fault(head.name, _read_or_none(run, head.name), text))
    return mismatched


def _read_or_none(run: RunDirectory, place: str) -> Receipt | None:
    """A receipt, unless it was taken out since it was listed."""
    return read_receipt(run.storage, place) if run.storage.exists(place) else None


def _fault_of_receipt(run: RunDirectory, place: str) -> Fault | None:
    """What is wrong with a receipt itself."""
    try:
        receipt = _read_or_none(run, place)
    except CorruptionError as error:
        return Fault(place, None, str(error))
    if receipt is not None and receipt.plan_id != run.manifest.plan_id:
        return Fault(place, receipt, f"{run.root / place} belongs to another plan")
    return None


def choose_batches(run: RunDirectory, count: int) -> list[int]:
    """Random batches among those that are committed, in order."""
    size = run.plan.batch_size
    batches = [b for r in run.spans(IMAGES) for b in range(r.start // size, r.stop // size)]
    unique = sorted(set(batches))
    return sorted(random.SystemRandom().sample(unique, min(count, len(unique))))


def check_batch(run: RunDirectory, sampler: BatchSampler, batch_index: int) -> BatchCheck:
    """Recompute one batch and compare it with what is committed."""
    size = run.plan.batch_size
    start, stop = batch_index * size, (batch_index + 1) * size
    images = sampler.batch(batch_index).rows.images_NHWC
    hashes = [pixel_sha256(image) for image in images]
    parts = cover(run.receipts(IMAGES, start, stop), start, stop)
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
    run: RunDirectory, parts: Sequence[Slice[Receipt]], images: Images, start: int
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
    named = {f.path for stage in stages_of(run) for r in run.committed(stage) for f in r.files}
    newest = time.time() - older_than_s
    found = []
    for path in sorted(run.root.rglob("*")):
        relative = path.relative_to(run.root).as_posix()
        is_data = relative.startswith(("images/", "features/")) and relative not in named
        is_hidden = path.name.startswith(_TEMPORARY)
        if path.is_file() and (is_data or is_hidden) and path.stat().st_mtime <= newest:
            found.append(relative)
    return found
