"""The log of an invocation: one JSON object in each line, with what tells lines apart."""

import json

import pytest
from ray.exceptions import RayTaskError
from story import story

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import DataError
from evalsuite.runtime.events import Event
from evalsuite.runtime.observing import log as log_module
from evalsuite.runtime.observing.log import EventLog, log_path


def lines_of(run: RunDirectory, invocation: str = "1f2e3d4c") -> list[dict]:
    return [json.loads(line) for line in (run.root / log_path(invocation)).read_text().splitlines()]


def test_every_line_says_which_run_shard_worker_and_host(run: RunDirectory) -> None:
    log = EventLog(run, "1f2e3d4c")
    for event in story():
        log.observe(event)
    lines = lines_of(run)
    assert [line["event"] for line in lines] == [event.kind for event in story()]
    for line in lines:
        assert (line["run"], line["plan"]) == ("made", run.manifest.plan_id)
        assert line["invocation"] == "1f2e3d4c"
        assert line.keys() >= {"time", "level", "shard", "worker", "host"}
    retried = next(line for line in lines if line["event"] == "shard-retried")
    assert (retried["shard"], retried["worker"], retried["host"], retried["level"]) == (
        "0000000064-0000000128",
        "worker-1",
        "node-a",
        "warning",
    )


def test_what_a_worker_raised_stays_one_line_with_its_traceback(run: RunDirectory) -> None:
    log = EventLog(run, "1f2e3d4c")
    remote = 'Traceback (most recent call last):\n  File "model.py", line 3, in sample\nKeyError: 1'

    def drive() -> None:
        """As the driver does: Ray's error, of the cause's class too, gives way to the cause."""
        error = DataError("samples 0..9: NaN")
        try:
            raise RayTaskError("sample", f"\x1b[36m{remote}\x1b[39m", error).as_instanceof_cause()
        except RayTaskError as task:
            raise task.cause from None

    with pytest.raises(DataError) as caught:
        drive()
    log.failed(caught.value)
    log.failed(DataError("no such file"))
    log.failed(ZeroDivisionError("ours"))
    log.observe(Event("shard-retried", start=0, stop=10, reason="x", traceback=remote))
    ours, plain, bug, retried = lines_of(run)
    assert (ours["reason"], ours["error"], ours["level"]) == (
        "samples 0..9: NaN",
        "DataError",
        "error",
    )
    assert ours["traceback"] == retried["traceback"] == remote
    assert "traceback" not in plain
    assert "ZeroDivisionError: ours" in bug["traceback"]


def test_a_log_that_cannot_be_written_ends_nothing(run: RunDirectory) -> None:
    (run.root / log_path("1f2e3d4c")).mkdir(parents=True)
    EventLog(run, "1f2e3d4c").note("started")


def test_on_an_object_store_it_is_written_whole_now_and_then(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is appended there; what could not be written is written the next time."""
    monkeypatch.setattr(log_module, "_local_path", lambda *_: None)
    monkeypatch.setattr(log_module, "FEWEST_S", 0.0)
    log = EventLog(run, "1f2e3d4c")
    log.note("started")
    assert not (run.root / log_path("1f2e3d4c")).exists()
    blocked = run.root / "attempts"
    blocked.write_text("a file stands where a directory is needed")
    log.beat()
    blocked.unlink()
    log.note("second")
    log.close()
    assert [line["event"] for line in lines_of(run)] == ["started", "second"]
