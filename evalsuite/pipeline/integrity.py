"""Finding stored bytes that are not what their receipts name, and files that none names."""

import functools
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.artifacts.images import Images, pixel_sha256
from evalsuite.artifacts.ledger import Reading
from evalsuite.artifacts.ledger_rows import Row
from evalsuite.artifacts.receipts import (
    AGAIN,
    RangeIndex,
    Receipt,
    Slice,
    cover,
    digest_of_pixels,
    is_own_file,
    is_receipt_name,
    read_receipt,
)
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory, feature_stage
from evalsuite.artifacts.single_images import stored_hashes
from evalsuite.artifacts.storage import FileEntry
from evalsuite.artifacts.verified import Claim, FileChecker
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.stage_names import JUDGED, judged_stages

FEATURES = feature_stage("")
_OF_PIXELS = (FEATURES, *(f"{kind}/" for kind in JUDGED))
"""How the names of stages begin that are made of pixels."""
_TEMPORARY = (".probe-", ".nonce-", ".0", ".manifest.json.", ".numerics.json.", ".segment-")
"""How the names of our temporary files begin."""


@dataclass(frozen=True)
class Fault:
    """A receipt whose files, or whose own text, cannot be trusted."""

    receipt_name: str
    receipt: Receipt | None
    """None where nothing that it says can be trusted."""
    text: str
    """What is wrong; what to do depends on the command that found it."""
    content: bytes | None = None
    """Its bytes, where it is the receipt itself that is bad: others in its place are no fault."""


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
    return present + run.feature_stages() + judged_stages(run)


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
    asked = stages_of(run) if stages is None else stages
    readings = {stage: run.ledger.readings(stage, start, stop) for stage in asked}
    faults = [f for s in asked for f in _faults_of_stage(run, checker, s, readings[s])]
    if hash_all:
        faults += _other_hashes(run, faults, readings.get(IMAGES, ()))
    return faults + _mismatched(run, faults, readings)


def _faults_of_stage(
    run: RunDirectory, checker: FileChecker, stage: str, readings: Sequence[Reading]
) -> list[Fault]:
    """Faults in the order of the receipts, one for each."""
    found: dict[str, Fault] = {}
    claims = []
    for reading in readings:
        place = f"receipts/{stage}/{reading.name}"
        fault = None
        if reading.row is None or _contradicts_itself(stage, reading.row):
            fault = _fault_of_receipt(run, place)
        if fault is not None:
            found[place] = fault
        elif reading.row is not None:
            told = reading.row.told()
            claims += [Claim(one, place, reading.stamp, told.created_at) for one in told.files]
    for claim, text in checker.faults(claims):
        place = claim.receipt_name
        if place not in found and (receipt := _still_naming(run, place, [claim.entry])) is not None:
            found[place] = Fault(place, receipt, text)
    return [found[place] for place in sorted(found)]


def _mismatched(
    run: RunDirectory, faults: Sequence[Fault], readings: Mapping[str, Sequence[Reading]]
) -> list[Fault]:
    """Features and verdicts of other pixels than the ones that are committed."""
    if any(one.error for stage in readings for one in readings[stage]):
        return []  # an unreadable receipt is a fault already; look again when it is gone
    bad = {fault.receipt_name for fault in faults}
    untrue = {fault.receipt_name for fault in faults if fault.receipt is None}
    features = {
        f"receipts/{stage}/{one.name}": one.row
        for stage in readings
        if stage.startswith(_OF_PIXELS)
        for one in readings[stage]
        if one.row is not None
    }
    rows = {place: row for place, row in features.items() if place not in bad}
    if not rows:
        return []
    try:
        below = _images_below(run, rows.values(), readings.get(IMAGES, ()))
        images = RangeIndex(r for r in below if f"receipts/{IMAGES}/{r.name}" not in untrue)
    except CorruptionError:
        return []
    mismatched = []
    for place, row in rows.items():
        told = row.told()
        digest = run.ledger.pixels_digest(images, row.start, row.stop)
        if digest in (None, told.pixels_digest):
            continue
        if (receipt := _still_naming(run, place, told.files)) is not None:
            text = f"{run.root}/{told.files[0].path} was made of other pixels"
            mismatched.append(Fault(place, receipt, text))
    return mismatched


def _images_below(
    run: RunDirectory, features: Iterable[Row], readings: Sequence[Reading]
) -> list[Row]:
    """Rows of the images that features were made of: as they were read, where those suffice."""
    ranges = list(features)
    low, high = min(row.start for row in ranges), max(row.stop for row in ranges)
    rows = [one.row for one in readings if one.row is not None]
    if rows and rows[0].start <= low and max(row.stop for row in rows) >= high:
        return rows
    return run.ledger.rows(IMAGES, low, high)


def _read_or_none(run: RunDirectory, place: str) -> Receipt | None:
    """A receipt, unless it was taken out since it was listed."""
    return read_receipt(run.storage, place) if run.storage.exists(place) else None


def _still_naming(run: RunDirectory, place: str, files: Sequence[FileEntry]) -> Receipt | None:
    """A receipt, unless it was taken out or made again since it was listed with these files.

    Reading every file takes minutes, in which another driver may have repaired what was bad.
    """
    receipt = _read_or_none(run, place)
    if receipt is None:
        return None
    named = {file.entry for file in receipt.files}
    return receipt if named.issuperset(files) else None


def _contradicts_itself(stage: str, row: Row) -> bool:
    """Whether a receipt's hashes are not those of its digest, or its files not its own."""
    told = row.told()
    hashes_fit = row.num_pixels == row.stop - row.start and row.digest == told.pixels_digest
    own = functools.partial(is_own_file, stage, row.start, told.attempt_id)
    files_fit = all(own(file.path) for file in told.files)
    return not files_fit or (stage == IMAGES and not hashes_fit)


def _fault_of_receipt(run: RunDirectory, place: str) -> Fault | None:
    """What is wrong with a receipt itself; its bytes are read first, so that they are the bad ones.

    None when it is sound by now.
    """
    content = run.storage.find(place)
    if content is None:
        return None
    try:
        receipt = _read_or_none(run, place)
    except CorruptionError as error:
        return Fault(place, None, str(error).removesuffix(f": {AGAIN}"), content)
    if receipt is None:
        return None
    where = run.root / place
    if receipt.plan_id != run.manifest.plan_id:
        return Fault(place, receipt, f"{where} belongs to another plan", content)
    own = functools.partial(is_own_file, receipt.stage, receipt.start, receipt.attempt_id)
    foreign = [file.path for file in receipt.files if not own(file.path)]
    if foreign:
        text = f"{where} is damaged: {foreign[0]} is no file of its attempt"
        return Fault(place, None, text, content)
    hashes = receipt.pixel_sha256
    fit = len(hashes) == receipt.stop - receipt.start
    if receipt.stage == IMAGES and not (fit and digest_of_pixels(hashes) == receipt.pixels_digest):
        return Fault(place, None, f"{where} is damaged: its pixel hashes do not fit", content)
    return None


def _other_hashes(
    run: RunDirectory, faults: Sequence[Fault], readings: Sequence[Reading]
) -> list[Fault]:
    """Receipts of images that name other pixel hashes than their Parquet files."""
    bad = {fault.receipt_name for fault in faults}
    found = []
    for reading in readings:
        place, row = f"receipts/{IMAGES}/{reading.name}", reading.row
        if row is None or place in bad:
            continue
        for file in row.told().files:
            if not file.path.endswith(".parquet") or not _still_naming(run, place, [file]):
                continue
            if digest_of_pixels(stored_hashes(run.storage, file)) == row.digest:
                continue
            content, receipt = run.storage.find(place), _read_or_none(run, place)
            if receipt is not None and digest_of_pixels(receipt.pixel_sha256) == row.digest:
                text = f"{run.root / place} names other pixel hashes than {file.path} holds"
                found.append(Fault(place, None, text, content))
    return found


def foreign_files(run: RunDirectory) -> list[str]:
    """Files among the receipts that are none by their names; they are left alone."""
    return [
        f"receipts/{stage}/{name}"
        for stage in stages_of(run)
        for name in run.storage.names(f"receipts/{stage}", ".json")
        if not is_receipt_name(name)
    ]


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
    for file in run.storage.listing():
        is_data = file.path.startswith(("images/", *_OF_PIXELS)) and file.path not in named
        is_hidden = file.path.rpartition("/")[2].startswith(_TEMPORARY)
        if (is_data or is_hidden) and file.modified_at <= newest:
            found.append(file.path)
    return found
