"""What tests share besides fixtures: commands, pixel hashes, processes, small disks."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_SAMPLES = 200
PLAN = ("--model", "pixnerd-digits", "--num-steps", "4", "--batch-size", "10")
"""The plan of most runs in these tests: real, and quick."""
TIMEOUT_S = 240
NONE_BEFOREHAND = {"RAY_prestart_worker_first_driver": "0"}
"""For a cluster: workers that Ray starts before it is asked are never ours, which have variables of
their own; each takes a second of a core."""


class Outcome(NamedTuple):
    """What a command gave back."""

    code: int
    stdout: str
    stderr: str

    @property
    def complaints(self) -> list[str]:
        """Lines on stderr but for what is always said: the plan, the work ahead, the progress."""
        ignored = ("evalsuite: plan ", "evalsuite: computing ", "evalsuite: a batch of ", "images ")
        return [line for line in self.stderr.splitlines() if not line.startswith(ignored)]


class HostedCluster(NamedTuple):
    """A cluster with three CPUs, held by another process."""

    address: str
    host_pid: int


class FinishedRun(NamedTuple):
    """A run that the real command line made, with all its images."""

    path: Path
    json: dict
    outcome: Outcome


def environment(*, private: bool, **extra: str) -> dict[str, str]:
    """Environment of a subprocess: this checkout, one thread, no address of another cluster.

    Args:
        private: leave out the token that these tests share with their cluster.
        extra: variables to add.
    """
    left_out = {"RAY_ADDRESS", "COLUMNS"} | (
        {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} if private else set()
    )
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **extra}


def start(*arguments: object, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """Start `python -m evalsuite` as the leader of its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "evalsuite", *map(str, arguments)],
        cwd=cwd,
        env=environment(private="--address" not in arguments, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = TIMEOUT_S) -> Outcome:
    """Wait for a command that `start` began."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        pytest.fail(f"no end after {timeout} s\n{stdout}\n{stderr}")
    return Outcome(process.returncode, stdout, stderr)


def run_cli(*arguments: object, cwd: Path, **env: str) -> Outcome:
    """Run `python -m evalsuite` to its end."""
    return finish(start(*arguments, cwd=cwd, **env))


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Outcome]
) -> tuple[Path, Outcome]:
    """What a command leaves in a folder; with `-n` one process has it made, and all have a copy.

    Args:
        tmp_path_factory: of pytest.
        name: of the folder, once in all tests.
        make: runs the command in a new folder; nothing in it may name its place.
    """
    own = tmp_path_factory.mktemp(name, numbered=False)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return own, make(own)
    shared = tmp_path_factory.getbasetemp().parent / name
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = shared.with_suffix(".said")
        if not said.exists():
            shutil.rmtree(shared, ignore_errors=True)
            shared.mkdir()
            said.write_text(json.dumps(make(shared)))
    shutil.copytree(shared, own, dirs_exist_ok=True)
    return own, Outcome(*json.loads(said.read_text()))


def call_in(folder: Path, *arguments: object) -> Outcome:
    """Run a command in this process, whose working directory is `folder` meanwhile."""
    with contextlib.chdir(folder):
        return call_main(*arguments)


def call_main(*arguments: object) -> Outcome:
    """Run a command in this process: quicker by seconds than one that imports torch first."""
    from evalsuite.cli.main import main

    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        finally:
            for number, handler in handlers.items():  # the command's own would stay in this process
                signal.signal(number, handler)
    assert isinstance(code, int)
    return Outcome(code, stdout.getvalue(), stderr.getvalue())


def receipts(run: Path, stage: str = "images") -> list[dict]:
    """The receipts of a stage, read without evalsuite, in the order of their ranges."""
    return [
        json.loads(path.read_text()) for path in sorted((run / "receipts" / stage).glob("*.json"))
    ]


def attempts(run: Path) -> list[dict]:
    """The invocations on a run, oldest first."""
    found = [
        (p.stat().st_mtime_ns, json.loads(p.read_text())) for p in (run / "attempts").glob("*.json")
    ]
    return [attempt for _, attempt in sorted(found, key=lambda pair: pair[0])]


def pixel_hashes(run: Path) -> dict[int, str]:
    """SHA-256 of each sample's uint8 [H,W,3] bytes, found without evalsuite's own readers.

    From the receipts, and from the decoded pixels wherever a shard keeps them; both must agree, and
    no sample may be committed twice.
    """
    hashes: dict[int, str] = {}
    for receipt in receipts(run):
        indices = range(receipt["start"], receipt["stop"])
        assert len(receipt["pixel_sha256"]) == len(indices)
        assert not hashes.keys() & set(indices), f"samples {indices} were committed twice"
        hashes |= dict(zip(indices, receipt["pixel_sha256"], strict=True))
    for stage in ("images", "pixels"):
        for receipt in receipts(run, stage):
            for file in receipt["files"]:
                content = (run / file["path"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == file["sha256"]
                decoded = decoded_hashes(content, file["path"], receipt["start"])
                assert decoded.items() <= hashes.items(), f"{file['path']} holds other pixels"
    return dict(sorted(hashes.items()))


def decoded_hashes(content: bytes, name: str, start: int) -> dict[int, str]:
    """SHA-256 of the pixels that a Parquet or NPZ shard keeps, by sample index."""
    if name.endswith(".npz"):
        images = np.load(io.BytesIO(content))["arr_0"]
        return {
            start + i: hashlib.sha256(image.tobytes()).hexdigest() for i, image in enumerate(images)
        }
    import pyarrow.parquet as pq

    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    return {r["sample_index"]: png_hash(r["image"]["bytes"]) for r in rows if r["image"]}


def png_hash(content: bytes) -> str:
    """SHA-256 of the pixels of an encoded RGB image."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Process(NamedTuple):
    """A process, and when it started: a number that is given again is not mistaken for it."""

    pid: int
    parent: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        fields = _stat_of(self.pid)
        return fields is not None and fields[19] == self.started and fields[0] != "Z"

    @property
    def title(self) -> str:
        """Its command line; Ray names its workers `ray::Class`."""
        with contextlib.suppress(OSError):
            return (Path("/proc") / str(self.pid) / "cmdline").read_text().replace("\0", " ")
        return ""


def is_running(pid: int) -> bool:
    """Whether there is a process of this number that is no zombie."""
    fields = _stat_of(pid)
    return fields is not None and fields[0] != "Z"


def descendants(pid: int) -> list[Process]:
    """All processes below `pid`."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat_of(int(entry.name))) is not None:
            parents[int(entry.name)] = (int(fields[1]), fields[19])
    found, todo = [], [pid]
    while todo:
        above = todo.pop()
        below = [child for child, (parent, _) in parents.items() if parent == above]
        found += [Process(child, *parents[child]) for child in below]
        todo += below
    return found


def _stat_of(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may hold spaces."""
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of `size` at `folder`; skips where mounting is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let tests mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def wait_for(happened: Callable[[], object], seconds: float = 90) -> object:
    """Wait until `happened` gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while (began := time.monotonic()) < deadline:
        value = happened()
        if value:
            return value
        looked_s = time.monotonic() - began  # at all processes, or by a command: it takes a while
        time.sleep(min(max(0.02, 4 * looked_s), 0.5))
    pytest.fail(f"it did not happen within {seconds} s")
