"""Builders of small real artifacts: a plan, a manifest, a receipt with its data file, images."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.receipts import Receipt, ReceiptFile, digest_of_pixels, range_name
from evalsuite.artifacts.run_directory import IMAGES
from evalsuite.artifacts.storage import Storage
from evalsuite.config import Plan


def make_plan(**changes: Any) -> Plan:
    """A plan of small images."""
    fields: dict[str, Any] = {
        "numerics_version": 1,
        "family": "any",
        "network": {"patch_size": 4},
        "weights_sha256": "ab" * 32,
        "ema": "none",
        "num_classes": 3,
        "labels": {"rule": "modulo"},
        "classes": None,
        "size": (5, 7),
        "sampling": {"solver": "euler", "num_steps": 2, "guidance_scale": 1.5},
        "first_seed": 100,
        "batch_size": 4,
        "uint8_rule": "half_up",
    }
    return Plan.model_validate(fields | changes)


def make_manifest(plan: Plan, **changes: Any) -> Manifest:
    """What a new run of `plan` writes."""
    fields = {"model": "tiny", "plan_id": plan.plan_id, "plan": plan, "formats": {"receipt": 1}}
    return Manifest.model_validate({**fields, "created_at": "2026-01-01T00:00:00+00:00", **changes})


def hashes(start: int, stop: int, salt: str = "") -> tuple[str, ...]:
    """Pretended pixel hashes of a range."""
    return tuple(hashlib.sha256(f"{salt}{i}".encode()).hexdigest() for i in range(start, stop))


def make_receipt(
    start: int,
    stop: int,
    *,
    attempt: str = "a0",
    stage: str = IMAGES,
    salt: str = "",
    content: bytes = b"data",
    **changes: Any,
) -> Receipt:
    """A receipt of a shard whose one file holds `content`."""
    path = f"{stage}/{range_name(start, stop)}-{attempt}.parquet"
    pixels = hashes(start, stop, salt)
    fields: dict[str, Any] = {
        "plan_id": make_plan().plan_id,
        "stage": stage,
        "stage_version": 1,
        "start": start,
        "stop": stop,
        "attempt_id": attempt,
        "files": (
            ReceiptFile(
                path=path, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
            ),
        ),
        "kept": "all",
        "pixel_sha256": pixels if stage == IMAGES else (),
        "pixels_digest": digest_of_pixels(pixels),
        "nfe": 3,
        "seconds": {"compute": 1.0},
        "numerics_id": "12" * 32,
        "numerics": {"device": "cpu"},
        "worker": {"pid": 1},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return Receipt.model_validate(fields | changes)


def write_data(storage: Storage, receipt: Receipt, content: bytes = b"data") -> None:
    """The data files of a receipt."""
    for file in receipt.files:
        with storage.create(file.path) as target:
            target.write(content)


def files_below(root: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir())


def pictures(count: int) -> NDArray[np.uint8]:
    """N random images of 5 x 7."""
    return np.random.default_rng(3).integers(0, 256, (count, 5, 7, 3), np.uint8)
