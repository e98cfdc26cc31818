"""Memory-mapped weights that are no longer read: their pages go back to the system."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
from torch import Tensor

_PAGEMAP = Path("/proc/self/pagemap")  # 64 bits for each page, see Linux's admin-guide/mm/pagemap
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def release_file_pages(tensor: Tensor) -> None:
    """Take a tensor's pages out of this process's memory if a file can give them again.

    No value changes: the pages are read again when they are touched, most often from the system's
    own cache. Nothing is done for memory that is not a file's, for a mapping with pages that were
    written to, and where the system does not tell one from the other.
    """
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    first = -(-tensor.data_ptr() // mmap.PAGESIZE)
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE
    if first < last and _is_of_file(first, last - first):
        place, length = first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(place), ctypes.c_size_t(length), mmap.MADV_DONTNEED
        )


def _is_of_file(first: int, count: int) -> bool:
    """Whether every page is a file's own or was never touched: none holds what only memory has."""
    try:
        descriptor = os.open(_PAGEMAP, os.O_RDONLY)
    except OSError:
        return False
    try:
        raw = os.pread(descriptor, 8 * count, 8 * first)
    finally:
        os.close(descriptor)
    flags = np.frombuffer(raw, dtype=np.uint64)
    touched = flags & (_PRESENT | _SWAPPED)
    return len(flags) == count and bool(np.all((touched == 0) | (flags & _OF_FILE > 0)))
