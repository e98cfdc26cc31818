"""Workers, drivers and writers that die, stop or come late: nothing is lost or doubled."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from disturb import KilledRun, LosingRun, num_receipts, watched_workers
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

pytestmark = pytest.mark.ray
ALL = ("generate", *PLAN, "--num-samples", NUM_SAMPLES, "--shard-size", 10)
AGAIN = "run the same command again to go on"
RESUME = f"images of this invocation are committed: {AGAIN}"
STOPS = [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]


def test_a_run_outlives_its_worker(losing_run: LosingRun, expected: dict[int, str]) -> None:
    assert losing_run.outcome.code == 0, losing_run.outcome.stderr
    assert pixel_hashes(losing_run.path) == expected


def test_a_lost_worker_is_said_and_noted(losing_run: LosingRun) -> None:
    assert "1 worker lost and replaced" in losing_run.outcome.stderr
    (attempt,) = attempts(losing_run.path)
    assert attempt["workers_lost"] == 1
    assert attempt["outcome"] == "complete"
    assert attempt["images_made"] == NUM_SAMPLES


def test_stdout_has_the_result_alone_though_a_worker_died(losing_run: LosingRun) -> None:
    """Ray prints its own account of a death there, whatever `log_to_driver` says."""
    assert losing_run.outcome.stdout == "made\n"
    assert "raylet" not in losing_run.outcome.stderr


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
    monkeypatch.setattr("evalsuite.runtime.crew._START_BACK_OFF_S", (0.0, 0.0, 0.2, 0.4))

    def shoot(worker) -> None:
        os.kill(worker.pid, signal.SIGKILL)

    where = ("--output", "made", "--address", cluster.address, "--num-workers", 1)
    with watched_workers(cluster.host_pid, shoot) as seen:
        outcome = call(*ALL, *where)
    assert outcome.code == 6
    assert len(seen) == 4
    assert len(outcome.complaints) == 1
    assert "loading lost a worker 4 times" in outcome.complaints[0]
    (attempt,) = attempts(tmp_path / "made")
    assert attempt["exit_code"] == 6
    assert attempt["workers_lost"] == 4


def test_a_killed_driver_leaves_no_process(killed_run: KilledRun) -> None:
    assert killed_run.num_processes >= 5
    assert killed_run.left == []


def test_a_private_ray_has_no_process_but_those_that_work(killed_run: KilledRun) -> None:
    """It would start one for each core before it is asked, and none of them could be ours."""
    assert killed_run.idle == []


def race(run: Path, attempt_id: str, mode: str) -> subprocess.Popen[str]:
    """A worker process of its own that makes samples 0..19 of a run."""
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("racer.py"), run, attempt_id, mode],
        env=environment(private=True),
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_late_writer_removes_its_files(digits_run: FinishedRun, tmp_path: Path) -> None:
    """One process stops between its data files and its receipt, another commits meanwhile."""
    run = tmp_path / "raced"
    run.mkdir()
    shutil.copy(digits_run.path / "manifest.json", run)
    late, quick = race(run, "late", "stop"), None
    try:
        wait_for(lambda: stopped(late.pid))
        written = bytes_of(run)
        assert len([name for name in written if "-late." in name]) == 2
        assert not [name for name in written if name.startswith("receipts/")]
        quick = race(run, "quick", "go")
        output, _ = quick.communicate(timeout=60)
        assert json.loads(output) == {"committed": ["images", STAGE], "discarded": []}
        winner = bytes_of(run)
        while late.poll() is None:  # it stops again at its second receipt
            if stopped(late.pid):
                os.kill(late.pid, signal.SIGCONT)
            time.sleep(0.05)
        output, _ = late.communicate(timeout=60)
    finally:
        late.kill()
    assert json.loads(output) == {"committed": [], "discarded": ["images", STAGE]}
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


def stopped(pid: int) -> bool:
    """Whether a process is stopped by SIGSTOP at the moment."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_stop_and_go_until_it_is_done(
    cluster: HostedCluster, tmp_path: Path, expected: dict[int, str]
) -> None:
    """SIGTERM, then SIGINT to the driver, then Ctrl-C in a terminal; the last run completes."""
    run = tmp_path / "made"
    one = (*ALL, "--output", "made", "--num-workers", 1)

    for number, code, name in STOPS:
        reached = num_receipts(run)
        driver = start(*one, "--address", cluster.address, cwd=tmp_path)
        wait_for(lambda reached=reached: num_receipts(run) > reached)
        driver.send_signal(number)
        outcome = finish(driver)
        assert outcome.code == code
        (line,) = outcome.complaints
        assert line == f"evalsuite: stopped by {name}; {images_said(run)} {RESUME}"
        assert_stopped_in_the_middle(run, code)

    reached = num_receipts(run)
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "evalsuite", *map(str, one)],
        cwd=tmp_path,
        env=environment(private=True),
        encoding="utf-8",
        codec_errors="replace",
    )
    wait_for(lambda: num_receipts(run) > reached)
    below = descendants(terminal.pid)
    terminal.sendintr()
    terminal.expect(pexpect.EOF, timeout=60)
    terminal.close()
    assert terminal.exitstatus == 130
    assert f"evalsuite: stopped by Ctrl-C; {images_said(run)} {RESUME}" in terminal.before
    wait_for(lambda: not any(process.alive for process in below), 15)
    assert_stopped_in_the_middle(run, 130)

    outcome = call_main(*ALL, "--output", run, "--address", cluster.address)
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(run) == expected
    assert sum(a["images_made"] for a in attempts(run)) == NUM_SAMPLES


def images_said(run: Path) -> int:
    """Images that the last invocation noted."""
    return attempts(run)[-1]["images_made"]


def assert_stopped_in_the_middle(run: Path, code: int) -> None:
    """Some shards stand, some are missing, and what was in hand left no files behind."""
    assert 0 < num_receipts(run) < 20
    attempt = attempts(run)[-1]
    assert attempt["exit_code"] == code
    named = {file["path"] for receipt in receipts(run) for file in receipt["files"]}
    assert {f"images/{path.name}" for path in (run / "images").iterdir()} == named


@pytest.mark.parametrize(("number", "code", "name"), STOPS)
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
    wait_for(lambda: not any(process.alive for process in below), 15)
    assert num_receipts(run) == 0
