"""The log of an invocation: one JSON object in each line, with what tells lines apart."""

import json

import pytest
from ray.exceptions import RayTaskError
from story import story

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.errors import DataError, StorageError
from evalsuite.runtime.events import Event
from evalsuite.runtime.observing import log as log_module
from evalsuite.runtime.observing.log import EventLog, log_path, read_log, segment_path


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


def test_a_log_is_read_of_one_invocation_alone(run: RunDirectory) -> None:
    assert read_log(run, "1f2e3d4c") == b""
    EventLog(run, "1f2e3d4c").note("started")
    EventLog(run, "1f2e3d4c0").note("other")
    assert read_log(run, "1f2e3d4c") == (run.root / log_path("1f2e3d4c")).read_bytes()


class CountingStorage(LocalStorage):
    """Files of a folder; counts the bytes that are put, and may refuse them."""

    put_bytes = 0
    refuses = False

    def replace(self, relative: str, content: bytes) -> None:
        if self.refuses:
            raise StorageError("it is away")
        self.put_bytes += len(content)
        super().replace(relative, content)


@pytest.fixture
def on_a_store(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run whose log cannot be appended to."""
    monkeypatch.setattr(log_module, "_local_path", lambda *_: None)
    monkeypatch.setattr(log_module, "FEWEST_S", 0.0)
    return RunDirectory(CountingStorage(run.root), run.manifest)


def segments_of(run: RunDirectory) -> list[bytes]:
    """In the order of their names, as a shell's `*.log.jsonl` gives them."""
    return [path.read_bytes() for path in sorted((run.root / "attempts").glob("*.log.jsonl"))]


def test_on_an_object_store_it_is_written_now_and_then(on_a_store: RunDirectory) -> None:
    """Nothing is appended there; what could not be written is written the next time."""
    log = EventLog(on_a_store, "1f2e3d4c")
    log.note("started")
    assert segments_of(on_a_store) == []
    on_a_store.storage.refuses = True
    log.beat()
    on_a_store.storage.refuses = False
    log.note("second")
    log.close()
    (segment,) = segments_of(on_a_store)
    assert [json.loads(line)["event"] for line in segment.splitlines()] == ["started", "second"]
    assert (on_a_store.root / segment_path("1f2e3d4c", 1)).read_bytes() == segment


@pytest.mark.parametrize("segment_bytes", [1, 2_000, 5_000])
def test_a_long_log_is_not_written_again_and_again(
    on_a_store: RunDirectory, monkeypatch: pytest.MonkeyPatch, segment_bytes: int
) -> None:
    """Segments of whole lines hold each line once; at most one of them is put at each beat."""
    monkeypatch.setattr(log_module, "SEGMENT_BYTES", segment_bytes)
    log, beats = EventLog(on_a_store, "1f2e3d4c"), 0
    for number in range(200):
        log.note("tick", number=number)
        on_a_store.storage.refuses = number in range(40, 60)  # it is away for a while
        if number % 3 == 0:
            log.beat()
            beats += 1
    log.close()
    segments = segments_of(on_a_store)
    assert read_log(on_a_store, "1f2e3d4c") == b"".join(segments)
    lines = [json.loads(line) for segment in segments for line in segment.splitlines()]
    assert [line["number"] for line in lines] == list(range(200))
    longest = max(len(line) + 1 for segment in segments for line in segment.splitlines())
    assert max(map(len, segments)) <= max(segment_bytes, longest)
    whole = sum(map(len, segments))
    assert on_a_store.storage.put_bytes <= whole + beats * (segment_bytes + longest)
    assert len(log._held) <= segment_bytes + longest
