"""Taking damaged shards out of a run so that they are made again, without losing what they promise.

The receipt of a shard that is taken out is set aside below `replaced/`: whatever is made in its
place must have the pixels that it names, and keeps at least what it kept.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from evalsuite.artifacts.ledger import Span
from evalsuite.artifacts.receipts import (
    Keep,
    RangeIndex,
    Receipt,
    is_own_file,
    range_name,
    read_receipt,
)
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.config import explain
from evalsuite.errors import CorruptionError, EvalsuiteError
from evalsuite.pipeline.integrity import Fault
from evalsuite.pipeline.ranges import ShardTask

REPLACED = "replaced"


def take_out(run: RunDirectory, faults: Sequence[Fault]) -> list[Receipt]:
    """Remove faulty shards, so that they are made again; gives the readable old receipts.

    A shard that another invocation has made again meanwhile is left alone, and so is every file
    but those of the shard's own attempt, whatever a damaged receipt names.
    """
    taken = []
    for fault in faults:
        receipt = fault.receipt
        if fault.content is not None:
            if run.storage.find(fault.receipt_name) != fault.content:
                continue
            run.storage.delete(fault.receipt_name)
        elif receipt is None or not _set_aside(run, fault.receipt_name, receipt):
            continue
        if receipt is None:
            continue
        for file in receipt.files:
            if is_own_file(receipt.stage, receipt.start, receipt.attempt_id, file.path):
                run.storage.delete(file.path)
        taken += [receipt] if fault.content is None else []
    return taken


def set_aside(
    run: RunDirectory, stage: str, numerics_id: str, start: int, stop: int
) -> list[Receipt]:
    """Receipts of equal numerics, touching start..stop-1, that were taken out of a stage.

    Raises:
        CorruptionError: one cannot be read.
    """
    found = _set_aside_of(run, stage, RangeIndex([Span(start, stop, None)]))
    return [receipt for receipt in found if receipt.numerics_id == numerics_id]


def keep_as_before(run: RunDirectory, tasks: Sequence[ShardTask], keep: Keep) -> list[ShardTask]:
    """Tasks that keep every pixel where a shard that was ever taken out had kept every pixel.

    Args:
        run: that is worked on.
        tasks: those that make no images keep none, and stay.
        keep: what all tasks are to keep of their images.

    Raises:
        CorruptionError: what was set aside cannot be read.
    """
    made = RangeIndex(task for task in tasks if IMAGES in task.stages)
    if keep == "all" or not made:
        return list(tasks)
    replaced = _set_aside_of(run, IMAGES, made)
    whole = RangeIndex(receipt for receipt in replaced if receipt.kept == "all")
    return [
        task._replace(keep="all")
        if IMAGES in task.stages and whole.touching(task.start, task.stop)
        else task
        for task in tasks
    ]


def _set_aside_of(run: RunDirectory, stage: str, ranges: RangeIndex[Any]) -> list[Receipt]:
    """Receipts that were taken out of a stage and touch any of `ranges`; no other is read."""
    folder = f"{REPLACED}/{stage}"
    names = [name for name in run.storage.names(folder, ".json") if _touches(name, ranges)]
    return [_receipt_set_aside(run, f"{folder}/{name}") for name in names]


def _receipt_set_aside(run: RunDirectory, path: str) -> Receipt:
    try:
        receipt = Receipt.model_validate_json(run.storage.read(path))
        if len(receipt.pixel_sha256) == receipt.stop - receipt.start:
            return receipt
        reason = "it lacks hashes of pixels"
    except ValidationError as error:
        reason = explain(error, Receipt)
    raise CorruptionError(
        f"{run.root}/{path} is damaged ({reason}): it says which pixels must come out again;"
        " restore it, or remove it to let them be any"
    )


def _touches(name: str, ranges: RangeIndex[Any]) -> bool:
    """Whether a file that was set aside may be of samples of `ranges`."""
    low, high = (*name.split("-"), "", "")[:2]
    if not (low.isdigit() and high.isdigit()):
        return True
    return bool(ranges.touching(int(low), int(high)))


def _set_aside(run: RunDirectory, name: str, receipt: Receipt) -> bool:
    """Move a receipt aside unless it is another attempt's by now."""
    try:
        current = read_receipt(run.storage, name)
    except EvalsuiteError:
        return False
    if current.attempt_id != receipt.attempt_id:
        return False
    file_name = f"{range_name(receipt.start, receipt.stop)}-{receipt.attempt_id}.json"
    place = f"{REPLACED}/{receipt.stage}/{file_name}"
    if not run.storage.move(name, place):
        return False
    moved = run.storage.read(place)
    if Receipt.model_validate_json(moved).attempt_id == receipt.attempt_id:
        return True
    run.storage.commit(name, moved)  # another driver was between the two: what it made stays
    run.storage.delete(place)
    return False
