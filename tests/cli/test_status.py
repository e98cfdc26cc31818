"""`evalsuite status`: what is done, who works where, what it cost; killed told from running."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from harness import Outcome, environment, start, wait_for

from evalsuite.artifacts.live import read_live
from evalsuite.artifacts.records import UNSEALED
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.cli.watch_view import table_lines
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.standing import standing_of
from evalsuite.sweep.watch_directory import CheckpointEntry, WatchDirectory, WatchManifest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from run_builder import add_attempt, add_record, add_shard, make_run

PROGRAM = Path(__file__).with_name("watched.py")
WORKING = "1f2e3d4c"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """32 of 96 samples."""
    return make_run(tmp_path / "made", num_images=32)


@contextmanager
def working_on(run: RunDirectory, seconds: float = 600) -> Iterator[subprocess.Popen[bytes]]:
    """A process that works on a run, once it has told of its progress."""
    command = [sys.executable, str(PROGRAM), str(run.root), WORKING, str(seconds)]
    process = subprocess.Popen(command, env=environment(private=True))
    try:
        wait_for(lambda: any(one.images_per_second for one in read_live(run.storage).values()))
        yield process
    finally:
        process.kill()
        process.wait()


def test_who_works_on_what_how_fast_and_whether_it_was_killed(
    run: RunDirectory, call: Callable[..., Outcome]
) -> None:
    with working_on(run) as process:
        seen = call("status", run.root, "--json", "now.json")
        assert seen.code == 0
        lines = seen.stdout.splitlines()
        assert "images: 32 samples in 1 shards, missing 32..95" in lines
        now = next(line for line in lines if line.startswith("now "))
        assert re.search(r"\d\d/90 images of this work, \d+\.\d images/s, \d+ s left", now)
        assert "notes   1 shard retried, 1 worker lost" in lines
        assert re.search(r"worker-0 on node-a, pid 10, cuda:0: 32..63 for 6\d\.\d min", seen.stdout)
        assert re.search(
            r"cost +\d\.\d+ GPU-hours, money 2\.5\d \(2\.5 per GPU-hour\)", seen.stdout
        )
        assert f"running, pid {process.pid} on " in lines[-1]
        content = json.loads(Path("now.json").read_text())
        (invocation,) = content["invocations"]
        assert (invocation["state"], invocation["pid"]) == ("running", process.pid)
        assert invocation["workers"][0]["holds"][0]["start"] == 32
        assert content["counts"]["workers_lost"] == 1
        assert 1 < content["cost"]["gpu_hours"] < 1.1
        assert content["stages"][0]["missing"] == [[32, 96]]
        assert content["seconds_left"] > 0
        process.send_signal(signal.SIGKILL)
        process.wait()
    after = call("status", run.root, "--json", "after.json").stdout.splitlines()
    assert not any(line.startswith("now ") for line in after)
    assert f"killed: pid {process.pid} on " in after[-1]
    assert "32 images committed, last at 2026-01-31" in after[-1]
    left = json.loads(Path("after.json").read_text())
    assert left["invocations"][0]["state"] == "killed"
    assert left["cost"]["gpu_hours"] > 1, "what the killed one cost until its last sign of life"


class CountingStorage(LocalStorage):
    """Files of a folder; notes what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.were_read: list[str] = []

    def read(self, relative: str) -> bytes:
        self.were_read.append(relative)
        return super().read(relative)


def test_damaged_files_hide_nothing_else(run: RunDirectory, call: Callable[..., Outcome]) -> None:
    (run.root / "receipts/images/0000000064-0000000096.json").write_text("{")
    add_attempt(run)
    (run.root / "attempts/00000bad.json").write_text("{")
    seen = call("status", run.root, "--json", "now.json")
    assert seen.code == 0, seen.stderr
    lines = seen.stdout.splitlines()
    assert "images: 32 samples in 1 shards, missing 32..95" in lines
    assert len([line for line in lines if line.startswith("damaged ")]) == 2
    damaged = json.loads(Path("now.json").read_text())["damaged"]
    assert damaged[0].endswith("attempts/00000bad.json is not JSON: remove it")
    assert damaged[1].endswith("again, which makes its samples anew")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"resolved": None}, "resolved: "),
        ({"resolved": []}, "resolved: "),
        ({"resolved": {"num_samples": 1.5}}, "resolved.num_samples: "),
        ({"resolved": {"num_samples": 9, "extractors": 1}}, "resolved.extractors: "),
        ({"hosts": [1, 2]}, "hosts.0: "),
        ({"workers_lost": "many"}, "workers_lost: "),
        ({"counts": {"shards_committed": None}}, "counts.shards_committed: "),
    ],
)
def test_an_attempt_with_fields_of_another_kind_is_named(
    run: RunDirectory, call: Callable[..., Outcome], content: dict, fault: str
) -> None:
    """In one line, whoever reads it; `status` leaves it out."""
    add_attempt(run)
    run.write_json("attempts/00000bad.json", content)
    named = f"attempts/00000bad.json is damaged ({fault}"
    (line,) = [s for s in call("status", run.root).stdout.splitlines() if s.startswith("damaged ")]
    assert named in line
    assert line.endswith("): remove it")
    with pytest.raises(CorruptionError, match=re.escape(named)):
        run.num_asked()


@pytest.mark.parametrize("every", ["nan", "inf"])
def test_a_time_between_looks_is_a_number(every: str, call: Callable[..., Outcome]) -> None:
    outcome = call("status", "made", "--watch", "--every", every)
    assert outcome.code == 2
    assert f"'{every}' is not a finite number" in outcome.complaints[0]


def test_each_invocation_is_read_once(run: RunDirectory) -> None:
    """On an object store each is a request."""
    for number in range(3):
        add_attempt(run, f"{number:08d}")
    storage = CountingStorage(run.root)
    standing = standing_of(RunDirectory(storage, run.manifest))
    assert standing.asked == 90
    names = [f"attempts/{name}" for name in run.storage.names("attempts", ".json")]
    assert len(names) >= 3
    assert sorted(path for path in storage.were_read if path.startswith("attempts/")) == names


def test_an_invocation_without_a_live_file_claims_no_life(
    run: RunDirectory, call: Callable[..., Outcome]
) -> None:
    """Of older versions; in the order of their beginning, each with what it cost."""
    add_attempt(run, WORKING, outcome="running", images_made=0)
    earlier = {"started_at": "2020-01-01T00:00:00+00:00", "images_made": 7}
    add_attempt(run, "ffffffff", **earlier, cost={"gpu_hours": 0.5, "money": 1.0})
    first, second = call("status", run.root).stdout.splitlines()[-2:]
    assert first.split()[:4] == ["2020-01-01T00:00:00+00:00", "0", "images", "complete"]
    assert "(0.5000 GPU-hours, money 1.00)" in first
    assert "no end noted: still running, or killed; 32 images committed, last at 20" in second


def test_a_stage_that_was_asked_for_and_has_nothing_is_missing(
    run: RunDirectory, call: Callable[..., Outcome]
) -> None:
    add_attempt(run)
    lines = call("status", run.root).stdout.splitlines()
    assert "features/digits-convnet-5bb259a7: 0 samples in 0 shards, missing 0..95" in lines


def test_watch_writes_a_line_for_each_change_and_ends_with_the_run(
    run: RunDirectory, tmp_path: Path
) -> None:
    with working_on(run) as process:
        watching = start("status", run.root, "--watch", "--every", 0.1, cwd=tmp_path)
        try:
            assert watching.stdout.readline().startswith("images 32/96, 1 worker, 1 shard retried")
            add_shard(run, 32, 64, "all", WORKING)
            assert watching.stdout.readline().startswith("images 64/96, 1 worker")
            process.kill()
            process.wait()
            assert watching.stdout.readline().endswith("nobody at work\n")
            add_shard(run, 64, 96, "all", "0a0b0c0d")
            assert watching.stdout.readline().endswith(", complete\n")
            assert watching.wait(timeout=60) == 0
        finally:
            watching.kill()


def test_watch_on_a_terminal_stays_within_it(run: RunDirectory) -> None:
    """In place: no line wraps, whatever the width, and the cursor comes back at the end."""
    with working_on(run):
        terminals = {
            columns: pexpect.spawn(
                sys.executable,
                ["-m", "evalsuite", "status", str(run.root), "--watch", "--every", "0.2"],
                dimensions=(24, columns),
                env={**environment(private=True), "TERM": "xterm-256color"},
                encoding="utf-8",
                timeout=60,
            )
            for columns in (80, 120)
        }
        for terminal in terminals.values():
            terminal.expect("images of this work")
        add_shard(run, 32, 64, "all", WORKING)
        for terminal in terminals.values():
            terminal.expect("images: 64 samples in 2 shards")
    add_shard(run, 64, 96, "all", "0a0b0c0d")
    for columns, terminal in terminals.items():
        terminal.expect("images: 96 samples in 3 shards, complete")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 0
        assert "\x1b[?25h" in terminal.before
        plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", terminal.before)
        lines = [line.strip("\r") for line in plain.splitlines()]
        assert max(map(len, lines)) <= columns
        assert any("killed: pid" in line for line in lines)


def test_every_needs_watch(run: RunDirectory, call: Callable[..., Outcome]) -> None:
    outcome = call("status", run.root, "--every", 3)
    assert outcome.code == 2
    assert "--every needs --watch" in outcome.stderr


def test_a_run_that_nobody_began_is_not_complete(
    run: RunDirectory, call: Callable[..., Outcome]
) -> None:
    assert os.listdir(run.root)  # noqa: PTH208
    assert "asked   0 samples" in call("status", run.root).stdout


def test_a_watch_names_records_without_their_hash(run: RunDirectory, tmp_path: Path) -> None:
    record = add_record(run, "fid", 32, 2.5)
    manifest = WatchManifest(
        model="any", pattern="/any/*.pt", num_samples=32, plan={}, ema="auto", measures=()
    )
    watched = WatchDirectory.create_or_open(tmp_path / "watch", manifest)
    watched.write_entry(
        CheckpointEntry(
            step=100, file="a.pt", num_bytes=1, modified_ns=1, weights_sha256="ab", ema="auto",
            plan_id="cd", run="../made", records=(record.path,), scored_at="",
        )
    )  # fmt: skip
    assert table_lines(watched)[0] == "step 100: digits-FID-32 2.5000"
    content = record.model_dump(mode="json") | {"value": 0.5, "record_sha256": None}
    run.write_json(record.path, content)
    shown = table_lines(WatchDirectory.open(watched.root))[:2]
    assert shown == ["step 100: digits-FID-32 0.5000", f"        digits-FID-32: {UNSEALED}"]
