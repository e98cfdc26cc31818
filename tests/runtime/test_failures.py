"""Workers, drivers and writers that die, stop or come late: nothing is lost or doubled."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest
from disturb import LosingRun, num_receipts, watched_workers
from harness import (
    NUM_SAMPLES,
    PLAN,
    FinishedRun,
    HostedCluster,
    Outcome,
    attempts,
    bytes_of,
    call_main,
    descendants,
    environment,
    finish,
    pixel_hashes,
    receipts,
    start,
    wait_for,
)
from racer import HeldStorage, made_by

pytestmark = pytest.mark.ray
ALL = ("generate", *PLAN, "--num-samples", NUM_SAMPLES, "--shard-size", 10)
AGAIN = "run the same command again to go on"
RESUME = f"images of this invocation are committed: {AGAIN}"
LONG = pytest.mark.slow
"""Run by `make faults`: a lost worker is in tests/chaos/test_faults.py too, on a cluster; a stop in
mid-run is below, in a terminal, SIGTERM stops a job in tests/cluster/test_submitting.py, a run that
was killed goes on in test_identity.py, and test_cluster.py has a signal while Ray starts.
"""
TERM = pytest.param(signal.SIGTERM, 143, "SIGTERM", id="SIGTERM")
INT = pytest.param(signal.SIGINT, 130, "Ctrl-C", id="SIGINT")


@LONG
def test_a_run_outlives_its_worker(losing_run: LosingRun, expected: dict[int, str]) -> None:
    assert losing_run.outcome.code == 0, losing_run.outcome.stderr
    assert pixel_hashes(losing_run.path) == expected


@LONG
def test_a_lost_worker_is_said_and_noted(losing_run: LosingRun) -> None:
    assert "1 worker lost and replaced" in losing_run.outcome.stderr
    (attempt,) = attempts(losing_run.path)
    assert attempt["workers_lost"] == 1
    assert attempt["outcome"] == "complete"
    assert attempt["images_made"] == NUM_SAMPLES


@LONG
def test_stdout_has_the_result_alone_though_a_worker_died(losing_run: LosingRun) -> None:
    """Ray prints its own account of a death there, whatever `log_to_driver` says."""
    assert losing_run.outcome.stdout == "made\n"
    assert "raylet" not in losing_run.outcome.stderr


@LONG
def test_the_lost_worker_leaves_only_garbage_that_gc_removes(losing_run: LosingRun) -> None:
    named = {file["path"] for receipt in receipts(losing_run.path) for file in receipt["files"]}
    assert call_main("gc", losing_run.path, "--force").code == 0
    assert {f"images/{path.name}" for path in (losing_run.path / "images").iterdir()} == named


def test_a_worker_that_dies_every_time_ends_the_run(
    cluster: HostedCluster,
    call: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After four times; here the second is the last, and tests/runtime/test_hung.py counts."""
    monkeypatch.setattr("evalsuite.runtime.crew.MAX_LOSSES", 1)

    def shoot(worker) -> None:
        os.kill(worker.pid, signal.SIGKILL)

    where = ("--output", "made", "--address", cluster.address, "--num-workers", 1)
    with watched_workers(cluster.host_pid, shoot) as seen:
        outcome = call(*ALL, *where)
    assert outcome.code == 6
    assert len(seen) == 2
    assert len(outcome.complaints) == 1
    assert "loading lost a worker 2 times" in outcome.complaints[0]
    (attempt,) = attempts(tmp_path / "made")
    assert attempt["exit_code"] == 6
    assert attempt["workers_lost"] == 2


def test_a_late_writer_removes_its_files(digits_run: FinishedRun, tmp_path: Path) -> None:
    """One stands still between its data files and its receipt, another commits meanwhile."""
    run = tmp_path / "raced"
    run.mkdir()
    shutil.copy(digits_run.path / "manifest.json", run)
    with ThreadPoolExecutor(1) as team:
        held = HeldStorage(run)
        late = team.submit(made_by, run, "late", held)
        try:
            assert held.reached.wait(60)
            written = bytes_of(run)
            assert len([name for name in written if "-late." in name]) == 2
            assert not [name for name in written if name.startswith("receipts/")]
            quick = made_by(run, "quick")
            assert (quick.committed, quick.discarded) == (("images", STAGE), ())
            winner = bytes_of(run)
        finally:
            held.released.set()
        report = late.result(60)
    assert (report.committed, report.discarded) == ((), ("images", STAGE))
    after = bytes_of(run)
    assert not [name for name in after if "late" in name]
    assert after == {name: content for name, content in winner.items() if "late" not in name}
    assert pixel_hashes(run).items() <= pixel_hashes(digits_run.path).items()
    for name, content in written.items():
        assert name == "manifest.json" or after[name.replace("late", "quick")] == content


def test_a_driver_leaves_out_what_another_made_in_shards_of_another_size(
    cluster: HostedCluster, tmp_path: Path, expected: dict[int, str]
) -> None:
    """The first is stopped at its second receipt; what it had in hand may be made twice."""
    run = tmp_path / "made"
    where = ("--output", run, "--address", cluster.address, "--num-workers", 1)
    first = start(*ALL, *where, cwd=tmp_path)
    try:
        wait_for(lambda: run.exists() and num_receipts(run) >= 2)
        os.kill(first.pid, signal.SIGSTOP)
        second = call_main(*ALL[:-1], 30, *where)
        assert second.code == 0, second.stderr
        assert "what one has committed the other leaves out" in second.stderr
    finally:
        os.kill(first.pid, signal.SIGCONT)
    outcome = finish(first)
    assert outcome.code == 0, outcome.stderr
    assert "images were made by another invocation meanwhile" in outcome.stderr
    made = [attempt["images_made"] for attempt in attempts(run)]
    assert sum(made) <= NUM_SAMPLES + 3 * 10, made
    hashes = {
        one["start"] + at: pixels
        for one in receipts(run)
        for at, pixels in enumerate(one["pixel_sha256"])
    }
    assert dict(sorted(hashes.items())) == expected


STAGE = "features/digits-convnet-5bb259a7"


@LONG
@pytest.mark.parametrize(("number", "code", "name"), [TERM, INT])
def test_stop_and_go(
    number: int,
    code: int,
    name: str,
    cluster: HostedCluster,
    tmp_path: Path,
    expected: dict[int, str],
) -> None:
    """A signal to the driver alone, and the same command again."""
    run = tmp_path / "made"
    where = ("--output", run, "--address", cluster.address, "--num-workers", 1)
    driver = start(*ALL, *where, cwd=tmp_path)
    wait_for(lambda: num_receipts(run) > 0)
    driver.send_signal(number)
    outcome = finish(driver)
    assert outcome.code == code
    (line,) = outcome.complaints
    assert line == f"evalsuite: stopped by {name}; {images_said(run)} {RESUME}"
    assert_stopped_in_the_middle(run, code)
    outcome = call_main(*ALL, *where)
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(run) == expected
    assert sum(a["images_made"] for a in attempts(run)) == NUM_SAMPLES


def test_ctrl_c_in_a_terminal_leaves_no_process(tmp_path: Path) -> None:
    """All processes of a private Ray get it; what was committed stays."""
    run = tmp_path / "made"
    options = ("--num-samples", 2000, "--shard-size", 10, "--num-workers", 1, "--output", "made")
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "evalsuite", "generate", *PLAN, *map(str, options)],
        cwd=tmp_path,
        env=environment(private=True),
        encoding="utf-8",
        codec_errors="replace",
    )
    wait_for(lambda: num_receipts(run) > 0)
    below = descendants(terminal.pid)
    terminal.sendintr()
    terminal.expect(pexpect.EOF, timeout=120)
    terminal.close()
    assert terminal.exitstatus == 130
    assert f"evalsuite: stopped by Ctrl-C; {images_said(run)} {RESUME}" in terminal.before
    wait_for(lambda: not any(process.alive for process in below), 60)
    assert_stopped_in_the_middle(run, 130, num_shards=200)


def images_said(run: Path) -> int:
    """Images that the last invocation noted."""
    return attempts(run)[-1]["images_made"]


def assert_stopped_in_the_middle(run: Path, code: int, num_shards: int = 20) -> None:
    """Some shards stand, some are missing, and what was in hand left no files behind."""
    assert 0 < num_receipts(run) < num_shards
    attempt = attempts(run)[-1]
    assert attempt["exit_code"] == code
    named = {file["path"] for receipt in receipts(run) for file in receipt["files"]}
    assert {f"images/{path.name}" for path in (run / "images").iterdir()} == named


@LONG
@pytest.mark.parametrize(("number", "code", "name"), [TERM, INT])
def test_a_signal_while_ray_starts_ends_it_cleanly(
    number: int, code: int, name: str, tmp_path: Path
) -> None:
    run = tmp_path / "made"
    driver = start(*ALL, "--output", "made", cwd=tmp_path)
    wait_for(lambda: len(descendants(driver.pid)) >= 2)
    below = descendants(driver.pid)
    driver.send_signal(number)
    outcome = finish(driver)
    assert outcome.code == code, outcome
    assert f"evalsuite: stopped by {name}" in outcome.stderr
    assert AGAIN in outcome.stderr
    assert "Traceback" not in outcome.stderr
    wait_for(lambda: not any(process.alive for process in below), 60)
    assert num_receipts(run) == 0
