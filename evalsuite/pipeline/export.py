"""Writing a run's images in other people's layouts, as a stream."""

import contextlib
import itertools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evalsuite.artifacts.images import ImageRows, NpzImageWriter, encode_png
from evalsuite.artifacts.run_directory import STORED_PIXELS, RunDirectory
from evalsuite.artifacts.storage import HashingWriter
from evalsuite.errors import StorageError, UsageError
from evalsuite.seeding import labels_of, seeds_of

_PORTION = 64


def export_adm_npz(run: RunDirectory, num_samples: int, target: Path) -> str:
    """One uncompressed NPZ: arr_0 uint8 [N,H,W,3] in index order, arr_1 labels. Gives its SHA-256.

    Raises:
        IncompleteError: pixels are missing, or were not kept.
        UsageError: the target exists.
    """
    if target.exists():
        raise UsageError(f"{target} exists already: remove it or give another --output")
    run.slices(run.pixel_receipts(0, num_samples), 0, num_samples, STORED_PIXELS)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as raw:
                hashing = HashingWriter(raw, target)
                writer = NpzImageWriter(hashing, num_samples, run.plan.size)
                for rows in _portions(run, num_samples):
                    writer.write(rows, ())
                writer.close()
                raw.flush()
                os.fsync(raw.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return hashing.sha256


def export_png(run: RunDirectory, num_samples: int, folder: Path) -> int:
    """One PNG for each sample, named by its index; gives their number.

    Raises:
        IncompleteError: pixels are missing, or were not kept.
        UsageError: the folder holds files.
    """
    with _explained(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} is not an empty folder: give another --output")
        folder.mkdir(parents=True, exist_ok=True)
        for rows in _portions(run, num_samples):
            for offset, image in enumerate(rows.images_NHWC):
                (folder / f"{rows.start + offset:010d}.png").write_bytes(encode_png(image))
    return num_samples


def _portions(run: RunDirectory, num_samples: int) -> Iterator[ImageRows]:
    pixels = run.read_images(0, num_samples)
    for start in range(0, num_samples, _PORTION):
        stop = min(start + _PORTION, num_samples)
        images = np.stack([image for _, image in itertools.islice(pixels, stop - start)])
        labels = labels_of(run.plan, start, stop, run.manifest.file_labels)
        yield ImageRows(start, seeds_of(run.plan, start, stop), labels, images)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
