"""Receipts are looked at meanwhile, a disk that hangs holds nobody up, and no memory is hoarded."""

import ctypes
import os
import threading
import time

import pytest

from evalsuite.artifacts import compacting
from evalsuite.artifacts.compacting import keeping_compact
from evalsuite.artifacts.receipts import receipt_name
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory


def test_a_look_that_hangs_is_left_to_itself(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody writes to stands in the place of a receipt: whoever opens it waits."""
    monkeypatch.setattr(compacting, "LEAVING_S", 0.2)
    path = run.root / receipt_name(IMAGES, 0, 10)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    before = set(threading.enumerate())
    with keeping_compact(run, [IMAGES], every_s=0.01):
        (looking,) = set(threading.enumerate()) - before
        time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert looking.is_alive()
    os.close(os.open(path, os.O_WRONLY))  # now it reads an empty file, and ends
    looking.join(10)
    assert not looking.is_alive()


class Allocated(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def hoarded_bytes() -> int:
    """What the C library holds and nobody uses."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Allocated
    return int(ask().fordblks)


def test_large_blocks_go_back_to_the_system(run: RunDirectory) -> None:
    """Pixel hashes of many receipts at once, of which glibc learns to keep as much."""
    with keeping_compact(run, [IMAGES]):
        before = hoarded_bytes()
        for mib in (30, 24, 16, 30, 16):
            assert len(bytearray(mib * 2**20)) == mib * 2**20
        assert hoarded_bytes() - before < 4 * 2**20
