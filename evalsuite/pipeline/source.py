"""Where outside samples are, how they are read, and whether they are still the same files."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.artifacts.samples import SampleSet, open_samples
from evalsuite.artifacts.samples.walking import walk
from evalsuite.artifacts.samples.zip_arrays import zip_array
from evalsuite.artifacts.storage import explained
from evalsuite.config import ExtractorSpec
from evalsuite.pipeline.provenance import decoding_version


@dataclass(frozen=True)
class Source:
    """Where samples are and how they are read; every process opens them for itself.

    Attributes:
        path: absolute.
        resize: as `open_samples` takes it.
        convert_rgb: likewise.
    """

    path: Path
    resize: str | None = None
    convert_rgb: bool = False

    def open(self) -> SampleSet:
        """The samples.

        Raises:
            DataError: they cannot be read as images.
        """
        return open_samples(self.path, resize=self.resize, convert_rgb=self.convert_rgb)

    def stamp(self) -> str:
        """Digest of the files' names, sizes and times: another one when a file was changed.

        Raises:
            StorageError: a file cannot be looked at.
        """
        return stamp_of(self.files())

    def files(self) -> list[str]:
        """The files that hold images."""
        if not self.path.is_dir():
            return [str(self.path)]
        found = walk(self.path)
        folder = str(self.path)
        return [f"{folder}/{name}" for name in (*found.pictures, *found.npz, *found.parquet)]

    def check_sums(self, unwanted: threading.Event) -> None:
        """Verify the checksums of NPZ files, which only reading from end to end can do.

        Args:
            unwanted: ends this early when it is set.

        Raises:
            CorruptionError: the images are not the ones that were written.
        """
        for path in self.files():
            if path.endswith(".npz"):
                zip_array(Path(path), "arr_0").verify(unwanted)


@contextlib.contextmanager
def sums_checked(samples: SampleSet) -> Iterator[None]:
    """Around reading of parts: compare the checksums of whole files in a thread meanwhile.

    Raises:
        CorruptionError: a file is damaged, wherever in it; what was made of it is worthless.
    """
    if samples.check_sums is None:
        yield
        return
    unwanted = threading.Event()
    with ThreadPoolExecutor(1) as helper:
        checking = helper.submit(samples.check_sums, unwanted)
        try:
            yield
        except BaseException:
            unwanted.set()
            raise
        checking.result()


def stamp_of(files: Sequence[str]) -> str:
    """Digest of names, sizes and times of files.

    Raises:
        StorageError: a file cannot be looked at.
    """
    digest = hashlib.sha256()
    for path in files:
        with explained(Path(path), "read"):
            about = os.stat(path)  # noqa: PTH116 - without a Path for each of 50,000
        times = f"{about.st_mtime_ns} {about.st_ctime_ns}"
        digest.update(f"{path}\0{about.st_ino} {about.st_size} {times}\0".encode())
    return digest.hexdigest()


def identity_of(
    source: Source, stamp: str, samples: SampleSet, spec: ExtractorSpec, numerics: str
) -> dict[str, Any]:
    """Everything that decides the features of samples, as the key of a cache."""
    return {
        "files": stamp,
        "resize": samples.resize,
        "convert_rgb": source.convert_rgb,
        "extractor": spec.extractor_id,
        "numerics": numerics,
        **({"decoding": decoding_version()} if samples.encoded else {}),
    }
