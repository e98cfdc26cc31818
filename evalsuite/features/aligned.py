"""Extraction in fixed batches aligned to `sample_index`, so that sharding cannot change a bit.

Sample i is always computed in slot i % batch_size of a forward pass over exactly batch_size images;
slots of samples that are not at hand are zero. Legend: N images, H, W, C; D features.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from evalsuite.features.base import Extractor, FeatureBatch

Images = NDArray[np.uint8]


class AlignedExtractor:
    """Takes consecutive images in any portions and gives features in the same order."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._pending: list[Images] = []
        self._first = 0
        self._next: int | None = None

    def push(self, first_index: int, images_NHWC: Images) -> list[FeatureBatch]:
        """Add images of samples first_index, first_index + 1, ...; give what is now complete.

        Raises:
            ValueError: the images do not follow the ones before them.
        """
        if self._next is None:
            self._first = self._next = first_index
        if first_index != self._next:
            raise ValueError(f"sample {first_index} does not follow sample {self._next - 1}")
        self._pending.append(images_NHWC)
        self._next += len(images_NHWC)
        size = self._extractor.batch_size
        boundary = self._next // size * size
        return self._extract_until(boundary) if boundary > self._first else []

    def flush(self) -> list[FeatureBatch]:
        """Features of what is left; the next push may start anywhere."""
        done = self._extract_until(self._next) if self._next is not None else []
        self._pending, self._next = [], None
        return done

    def _extract_until(self, stop: int) -> list[FeatureBatch]:
        if stop == self._first:
            return []
        single = len(self._pending) == 1
        images = self._pending[0] if single else np.concatenate(self._pending)
        taken, rest = images[: stop - self._first], images[stop - self._first :]
        self._pending = [rest] if len(rest) else []
        size = self._extractor.batch_size
        results = []
        at = self._first
        while at < stop:
            slot = at % size
            count = min(size - slot, stop - at)
            block = _whole(taken[at - self._first : at - self._first + count], slot, size)
            results.append(_rows(self._extractor(block), slot, slot + count))
            at += count
        self._first = stop
        return results


def _whole(images_NHWC: Images, slot: int, size: int) -> Images:
    """A batch of `size` with these images from `slot` on, and zeros elsewhere.

    The images themselves where they fill it, unless torch would warn that they are read-only.
    """
    if len(images_NHWC) == size and images_NHWC.flags.writeable:
        return images_NHWC
    block = np.zeros((size, *images_NHWC.shape[1:]), dtype=np.uint8)
    block[slot : slot + len(images_NHWC)] = images_NHWC
    return block


def extract_all(extractor: Extractor, batches: Iterable[Images]) -> Iterator[FeatureBatch]:
    """Features of images that start at index 0, in portions."""
    aligned = AlignedExtractor(extractor)
    index = 0
    for images in batches:
        yield from aligned.push(index, images)
        index += len(images)
    yield from aligned.flush()


def concatenate(batches: Iterable[FeatureBatch]) -> FeatureBatch:
    """One FeatureBatch from many."""
    parts = list(batches)
    return FeatureBatch(*(_join([part[i] for part in parts]) for i in range(3)))  # type: ignore[arg-type]


def _join(arrays: list[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


def _rows(batch: FeatureBatch, start: int, stop: int) -> FeatureBatch:
    return FeatureBatch(*(None if a is None else a[start:stop] for a in batch))  # type: ignore[arg-type]
