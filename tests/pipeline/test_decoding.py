"""Reading ahead: the same bytes in order from any number of processes, and none left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from harness import wait_for
from PIL import Image

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.samples import SampleSet, open_samples
from evalsuite.errors import DataError, WorkerError
from evalsuite.pipeline.decoding import decoded, prefetched, regrouped
from evalsuite.pipeline.evaluation import samples_of_run

COUNT = 150
PICTURES = np.random.default_rng(5).integers(0, 256, (COUNT, 6, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 PNGs."""
    folder = tmp_path_factory.mktemp("decoding")
    for i, image in enumerate(PICTURES):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def children() -> set[int]:
    """Decoding processes of this one; the tracker that Python starts once is none."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and "spawn_main" in command:
            found.add(int(path.name))
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_gives_the_same(folder: Path, processes: int) -> None:
    """In order, in portions of the asked size, from the asked place."""
    samples = open_samples(folder)
    before = children()
    portions = list(decoded(samples, 3, 140, 16, processes))
    assert [len(p) for p in portions] == [16] * 8 + [9]
    np.testing.assert_array_equal(np.concatenate(portions), PICTURES[3:140])
    assert children() <= before


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_ahead_by_a_thread(tmp_path: Path, save: object) -> None:
    """It needs no decoding, or cannot be entered in the middle."""
    path = tmp_path / "samples.npz"
    save(path, PICTURES)
    before = children()
    reading = decoded(open_samples(path), 5, COUNT, 50, 4)
    first = next(reading)
    assert children() <= before
    portions = [first, *reading]
    assert [len(p) for p in portions] == [50, 50, 45]
    np.testing.assert_array_equal(np.concatenate(portions), PICTURES[5:])


def test_a_run_is_read_ahead_too(finished: RunDirectory) -> None:
    """From its shards, in order."""
    samples = samples_of_run(finished, 50)
    portions = list(decoded(samples, 13, 50, 16, 2))
    assert [len(p) for p in portions] == [16, 16, 5]
    expected = [image for _, image in finished.read_images(13, 50)]
    np.testing.assert_array_equal(np.concatenate(portions), np.stack(expected))


def test_nothing_to_read(folder: Path) -> None:
    assert list(decoded(open_samples(folder), 7, 7, 16, 2)) == []


def test_a_fault_comes_through_as_ours(folder: Path, tmp_path: Path) -> None:
    """After the portions before it, and no process stays."""
    for i in range(40):
        (tmp_path / f"{i:03d}.png").write_bytes((folder / f"{i:03d}.png").read_bytes())
    samples = open_samples(tmp_path)
    (tmp_path / "025.png").write_bytes(b"broken")
    before, got = children(), []

    def read() -> None:
        for images in decoded(samples, 0, 40, 8, 2):
            got.append(images)

    with pytest.raises(DataError, match=r"025.png cannot be read as an image"):
        read()
    np.testing.assert_array_equal(np.concatenate(got), PICTURES[:24])
    assert children() <= before


def test_a_reader_that_stops_leaves_no_process(folder: Path) -> None:
    before = children()
    reading = decoded(open_samples(folder), 0, COUNT, 4, 2)
    next(reading)
    assert children() - before
    reading.close()
    assert children() <= before


def test_a_killed_process_is_said(tmp_path: Path) -> None:
    """Portions that no pipe can hold, so that there is work left."""
    np.savez(tmp_path / "samples.npz", PICTURES)
    before = children()
    samples = open_samples(tmp_path / "samples.npz", resize="bicubic:200")
    reading = decoded(samples, 0, COUNT, 16, 2)
    next(reading)
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"ended with exit code -9"):
        list(reading)
    assert children() <= before


PROGRAM = """
import sys, time
from pathlib import Path
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.samples import open_samples
from evalsuite.pipeline.decoding import decoded
if __name__ == "__main__":
    for images in decoded(open_samples(Path(sys.argv[1])), 0, 150, 2, 2):
        print("reading", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_ends_takes_its_processes_along(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """However it ends; on Ctrl-C, which reaches the whole group, they print nothing."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    parent = subprocess.Popen(
        [sys.executable, str(program), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout.readline() == "reading\n"
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, stderr = parent.communicate(timeout=20)
    assert stderr.count("Traceback") == (1 if number == signal.SIGINT else 0)
    wait_for(lambda: not members(parent.pid), 20)


def members(session: int) -> list[str]:
    """Processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(path.name)
    return found


def test_reading_ahead_is_bounded(folder: Path) -> None:
    """No more than the depth, and the one in hand."""
    taken = []

    def source() -> object:
        for i in range(50):
            taken.append(i)
            yield i

    ahead = prefetched(source(), 3)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(taken) <= 5
    assert list(ahead) == list(range(1, 50))


def test_regrouping_keeps_every_image() -> None:
    for cut in (1, 7, 64, 200):
        parts = [PICTURES[i : i + cut] for i in range(0, COUNT, cut)]
        for size in (1, 10, 64, 1000):
            out = list(regrouped(parts, size))
            assert all(len(p) == size for p in out[:-1])
            np.testing.assert_array_equal(np.concatenate(out), PICTURES)


def test_other_faults_keep_their_traceback() -> None:
    """A bug in a process is a bug here, with where it happened."""
    samples = SampleSet("nowhere", 8, (6, 9), None, None, broken_read)
    with pytest.raises(ZeroDivisionError) as caught:
        list(decoded(samples, 0, 8, 2, 2))
    assert "broken_read" in "".join(caught.value.__notes__)


def broken_read(start: int, stop: int) -> object:
    """Raises what no reader should."""
    return 1 // 0
