"""How fast and in how little memory an NPZ of 50,000 images of 512 x 512 is read (39 GB).

Makes a sparse file: a stored ZIP64 member of zeros, which take no space on the disk, with its true
checksum. Streams all of it, checksum included, then single portions from anywhere in it. Zeros
come from no disk, so this measures everything but the disk. Prints GB/s, images/s, milliseconds
for a portion, and the peak memory of the process beyond what it had after the imports:

    python -m benchmarks.npz_streaming [--images 50000] [--size 512] [--folder DIR]
"""

import argparse
import io
import resource
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO, cast

import numpy as np

from evalsuite.artifacts.samples import open_samples
from evalsuite.artifacts.samples.base import SampleSet
from evalsuite.pipeline.decoding import decoded

_ZEROS = bytes(16 << 20)
_PORTION = 64


class SparseFile(io.RawIOBase):
    """A file in which zeros are holes."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb")

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write, or step over zeros."""
        if len(data) > 4096 and data == _ZEROS[: len(data)]:
            self._raw.seek(len(data), io.SEEK_CUR)
            return len(data)
        return self._raw.write(data)

    def seekable(self) -> bool:
        """As files are."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As files do."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """As files do."""
        return self._raw.tell()

    def flush(self) -> None:
        """As files do."""
        if not self._raw.closed:
            self._raw.flush()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()


def write_sparse(path: Path, num_images: int, size: int) -> None:
    """An NPZ with arr_0 of zeros."""
    left = num_images * size * size * 3
    file = cast("IO[bytes]", SparseFile(path))
    with (
        file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, size, size, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        while left:
            count = min(left, len(_ZEROS))
            member.write(_ZEROS if count == len(_ZEROS) else _ZEROS[:count])
            left -= count


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_portion_ms(samples: SampleSet, count: int = 50) -> float:
    """Median milliseconds for a portion from a random place."""
    random = np.random.default_rng(0)
    seconds = []
    for start in random.integers(0, samples.num_images - _PORTION + 1, count):
        began = time.perf_counter()
        sum(len(images) for images in samples.read(int(start), int(start) + _PORTION))
        seconds.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "zeros.npz"
        write_sparse(path, arguments.images, arguments.size)
        status = path.stat()
        print(
            f"{status.st_size / 1e9:.2f} GB, of which on the disk {status.st_blocks * 512:,} bytes"
        )
        before = peak_bytes()
        samples = open_samples(path)
        for kind in ("read", "read ahead by a thread"):
            began, cpu, total = time.perf_counter(), time.process_time(), 0
            portions = samples.portions(samples.num_images)
            if kind != "read":
                portions = decoded(samples, 0, samples.num_images, _PORTION, 1)
            for images in portions:
                total += images.nbytes
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            print(
                f"{kind}: {total / 1e9:.2f} GB in {seconds:.1f} s and {cpu:.1f} s of CPU,"
                f" {total / seconds / 1e9:.2f} GB/s, {samples.num_images / seconds:.0f} images/s,"
                f" peak memory so far +{(peak_bytes() - before) / 2**20:.0f} MiB"
            )
        print(f"a portion of {_PORTION} from anywhere: {random_portion_ms(samples):.1f} ms")


if __name__ == "__main__":
    main()
