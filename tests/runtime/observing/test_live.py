"""Live files: who lives, who was killed, and what a watched invocation leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from story import ENDS, story

from evalsuite.artifacts.live import (
    Life,
    LiveInvocation,
    Process,
    life_of,
    process_started,
    read_live,
    this_process,
    write_live,
)
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.pipeline.company import others_at_work, said_of
from evalsuite.runtime.observing import watch as watch_module
from evalsuite.runtime.observing.watch import Watch

NOW = 1_800_000_000.0


def live_of(process: Process, *, silent_s: float = 0.0, every_s: float = 3.0) -> LiveInvocation:
    return LiveInvocation(
        invocation_id="1f2e3d4c",
        command="run",
        host=process.host,
        machine=process.machine,
        pid=process.pid,
        process_started=process.started,
        started_at=NOW - 3600,
        beat_at=NOW - silent_s,
        every_s=every_s,
    )


@pytest.mark.parametrize(
    ("silent_s", "every_s", "life"),
    [(50, 3, Life.RUNNING), (70, 3, Life.LOST), (70, 20, Life.RUNNING), (90, 20, Life.LOST)],
)
def test_of_another_machine_the_sign_of_life_tells(
    silent_s: float, every_s: float, life: Life
) -> None:
    """The pid of another machine says nothing, even when there is one of that number here."""
    here = this_process()
    away = here._replace(host="node-b", machine="another boot")
    assert life_of(live_of(away, silent_s=silent_s, every_s=every_s), NOW) is life


def test_of_this_machine_the_process_tells() -> None:
    """Stopped, killed but not yet reaped, gone, and its number given to another process."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = process_started(child.pid)
    assert started is not None
    process = this_process()._replace(pid=child.pid, started=started)
    assert life_of(live_of(process), NOW) is Life.RUNNING
    assert life_of(live_of(process, silent_s=500), NOW) is Life.SILENT
    assert life_of(live_of(process._replace(started="1")), NOW) is Life.KILLED
    child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while process_started(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert life_of(live_of(process), NOW) is Life.KILLED
    child.wait()
    assert life_of(live_of(process), NOW) is Life.KILLED


@pytest.mark.parametrize(
    ("part", "asked", "is_told"),
    [
        (None, (0, 96), True),
        ([1, 3], (0, 32), True),
        ([1, 3], (32, 96), False),
        ("?", (32, 96), True),
    ],
)
def test_who_makes_the_same_samples_is_named_while_it_lives(
    run: RunDirectory, part: object, asked: tuple[int, int], is_told: bool
) -> None:
    """Another process of this machine; one whose share is another's is no company."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = this_process()._replace(pid=child.pid, started=process_started(child.pid) or "")
    now = {"started_at": time.time(), "beat_at": time.time()}
    write_live(run.storage, live_of(process).model_copy(update=now))
    write_live(run.storage, live_of(this_process()).model_copy(update={"invocation_id": "own"}))
    asked_for = {"resolved": {"num_samples": 90, "part": part}}
    run.write_json("attempts/1f2e3d4c.json", asked_for)
    try:
        found = others_at_work(run, "own", asked)
    finally:
        child.kill()
        child.wait()
    assert [other.pid for other in found] == ([child.pid] if is_told else [])
    for other in found:
        assert said_of(other).startswith(f"`run` (process {child.pid} on {process.host}) makes")
    assert others_at_work(run, "own", asked) == []


def test_a_driver_whose_attempt_is_damaged_may_make_anything(run: RunDirectory) -> None:
    away = this_process()._replace(host="node-b", machine="another boot", pid=7)
    write_live(run.storage, live_of(away).model_copy(update={"beat_at": time.time()}))
    run.storage.replace("attempts/1f2e3d4c.json", b"[" * 200_000)
    assert [other.pid for other in others_at_work(run, "own", (0, 96))] == [7]


def test_a_driver_on_another_machine_was_seen_some_time_ago(run: RunDirectory) -> None:
    away = this_process()._replace(host="node-b", machine="another boot", pid=7)
    live = live_of(away).model_copy(update={"beat_at": time.time() - 20})
    write_live(run.storage, live)
    (other,) = others_at_work(run, "own", (0, 96))
    assert re.search(r"process 7 on node-b, last seen 2\d s ago\)", said_of(other))


def test_a_watch_gives_signs_of_life_and_goes(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "BEAT_S", 0.02)
    monkeypatch.setattr(watch_module.RunMetrics, "observe", lambda *_: None)  # no Ray here
    watch = Watch(run, "1f2e3d4c", "run", price_per_gpu_hour=2.0)
    with watch.beating():
        for event in story():
            watch.observe(event)
        seen = set()
        deadline = time.monotonic() + 30
        while len(seen) < 3 and time.monotonic() < deadline:
            if (live := read_live(run.storage).get("1f2e3d4c")) is not None:
                seen.add(live.beat_at)
        assert live is not None
        assert len(seen) == 3
        assert (live.pid, life_of(live)) == (os.getpid(), Life.RUNNING)
        assert [worker.name for worker in live.workers] == ["worker-0", "worker-2"]
        assert live.counts.workers_lost == 1
        assert live.cost.gpu_hours > 0
    assert read_live(run.storage) == {}
    for event in ENDS:
        watch.observe(event)
    summary = watch.summary()
    assert summary["counts"]["shards_retried"] == 1
    assert summary["cost"]["money"] == pytest.approx(2 * summary["cost"]["gpu_hours"])
    assert json.loads(json.dumps(summary)) == summary


def test_what_ends_a_watched_invocation_is_in_its_log(run: RunDirectory) -> None:
    watch = Watch(run, "1f2e3d4c", "run")
    with pytest.raises(ZeroDivisionError), watch.beating():
        1 / 0  # noqa: B018
    lines = (run.root / "attempts/1f2e3d4c.log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["started", "failed"]
    assert "ZeroDivisionError" in json.loads(lines[1])["traceback"]
    assert read_live(run.storage) == {}


def test_a_live_file_that_is_no_such_thing_is_left_out(run: RunDirectory) -> None:
    """News, not truth: nothing that is committed depends on it."""
    run.storage.replace("live/aa.json", b"{")
    run.storage.replace("live/bb.json", b'{"schema_version": 9}')
    run.storage.replace("live/cc.json", b"[" * 200_000)
    assert read_live(run.storage) == {}
