"""What every kind of samples gives: uint8 RGB images in a fixed order, from any place in it.

Legend: N images, H height, W width, C channels.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images

PORTION = 64
"""Images that are read at a time ..."""
_PORTION_BYTES = 64 << 20
"""... unless they take more memory than this."""


@dataclass(frozen=True)
class SampleSet:
    """Images in a fixed order.

    Attributes:
        where: for messages.
        num_images: N.
        size: (H, W), equal for all, after resizing.
        labels_N: class labels, when the source has them.
        codec: `lossless`, `lossy` or None when unknown.
        read: images start..stop-1 in portions of uint8 [n,H,W,3]. What `open_samples` gives can
            be pickled, so that other processes read other ranges.
        resize: canonical text of what the pixels went through (`convert-rgb`, a rule), None
            without.
        random_access: whether reading from `start` costs no more than reading from 0; otherwise
            everything before `start` is decompressed and thrown away.
        encoded: whether an image costs computing (decoding, resizing) and not only reading, so
            that several processes are faster than one.
        names: relative POSIX paths of the images, where each is a file of its own.
        check_sums: reads the files from end to end and compares their checksums, which `read` does
            where it reads all images in one go; it ends early when the event is set. None where
            every read is checked as far as it can be.
    """

    where: str
    num_images: int
    size: tuple[int, int]
    labels_N: NDArray[np.int64] | None
    codec: str | None
    read: Callable[[int, int], Iterator[Images]]
    resize: str | None = None
    random_access: bool = True
    encoded: bool = True
    names: tuple[str, ...] | None = None
    check_sums: Callable[[threading.Event], None] | None = None

    def portions(self, stop: int) -> Iterator[Images]:
        """Images 0..stop-1 in portions of uint8 [n,H,W,3]."""
        return self.read(0, stop)


def portion_of(size: tuple[int, int]) -> int:
    """How many images of (H, W) are held at a time."""
    return max(1, min(PORTION, _PORTION_BYTES // (size[0] * size[1] * 3)))


def stacked(images: Iterable[Images], size: tuple[int, int]) -> Iterator[Images]:
    """Portions uint8 [n,H,W,3] of single images [H,W,3], which must have this (H, W)."""
    held: list[Images] = []
    for image in images:
        held.append(image)
        if len(held) == portion_of(size):
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)
