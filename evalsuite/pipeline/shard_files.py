"""What an attempt made of consecutive images, in one file with its receipt: features, rows."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from evalsuite.artifacts.receipts import (
    Receipt,
    ReceiptFile,
    commit_receipt,
    digest_of_pixels,
    may_stand,
    range_name,
)
from evalsuite.artifacts.storage import Storage
from evalsuite.errors import EvalsuiteError
from evalsuite.pipeline.stages import STAGE_VERSION


class ShardFile(NamedTuple):
    """A file to be committed."""

    owner: str
    """`plan_id` of the run, or what stands for the set of images."""
    stage: str
    start: int
    pixel_sha256: Sequence[str]
    """Of each image."""
    content: bytes
    suffix: str
    """Of its name, such as `.jsonl`."""


class Maker(NamedTuple):
    """Who made it."""

    attempt_id: str
    seconds: float
    worker: Mapping[str, Any]
    """With `host`, `pid`, `device`, `numerics` and `numerics_id`."""


def commit_file(storage: Storage, file: ShardFile, maker: Maker, *, keep_hashes: bool) -> bool:
    """Write a file and then its receipt; False when another attempt was first.

    Where the receipt cannot be committed the file is removed, unless the receipt may stand all the
    same: a file that no receipt names harms nobody (what judges said is removed by `gc` or with its
    folder of the cache, features in the cache by their next user), a receipt without its file does.

    Args:
        storage: where both belong.
        file: what was made.
        maker: of it.
        keep_hashes: whether the receipt names the hash of each image besides their digest.

    Raises:
        ReproducibilityError: the other attempt was made of other pixels.
        StorageError: it cannot be written.
    """
    stop, worker = file.start + len(file.pixel_sha256), maker.worker
    path = f"{file.stage}/{range_name(file.start, stop)}-{maker.attempt_id}{file.suffix}"
    with storage.create(path) as target:
        target.write(file.content)
    receipt = Receipt(
        plan_id=file.owner,
        stage=file.stage,
        stage_version=STAGE_VERSION,
        start=file.start,
        stop=stop,
        attempt_id=maker.attempt_id,
        files=(ReceiptFile(path=path, num_bytes=target.num_bytes, sha256=target.sha256),),
        pixel_sha256=tuple(file.pixel_sha256) if keep_hashes else (),
        pixels_digest=digest_of_pixels(file.pixel_sha256),
        nfe=0,
        seconds={"total": round(maker.seconds, 4)},
        numerics_id=worker["numerics_id"],
        numerics=worker["numerics"],
        worker={key: worker[key] for key in ("host", "pid", "device")},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        return commit_receipt(storage, receipt)
    except BaseException as error:
        if not may_stand(storage, receipt, error):
            with contextlib.suppress(EvalsuiteError):  # the first error is the one to tell
                storage.delete(path)
        raise


def forget_file(storage: Storage, receipt: Receipt) -> None:
    """Remove a receipt, and then what it has committed, to be made again."""
    storage.delete(receipt.name)
    for file in receipt.files:
        storage.delete(file.path)
