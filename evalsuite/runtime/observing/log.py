"""The log of an invocation: one JSON object in each line, `attempts/<invocation>.log.jsonl`.

On an object store, where nothing is appended, it comes in segments, of which only the last is
written again: `attempts/<invocation>.0001.log.jsonl` and so on.
Each line has time, level, event, run, plan, invocation, shard, worker and host (null where one does
not apply), so that the logs of many runs can be poured together and still be told apart.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalsuite.artifacts.receipts import range_name
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import EvalsuiteError, StorageError
from evalsuite.runtime.events import Event

FEWEST_S = 30.0
"""On an object store the log is written at most so often and for a tenth of the time."""
SEGMENT_BYTES = 256 * 2**10
"""Of whole lines; a segment that has so much there is never written again."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WARNINGS = {
    "worker-lost",
    "shard-retried",
    "shard-discarded",
    "shard-quarantined",
    "node-left",
    "stopping",
}


def log_path(invocation_id: str) -> str:
    """Place of an invocation's log in a run directory on a file system."""
    return f"attempts/{invocation_id}.log.jsonl"


def segment_path(invocation_id: str, number: int) -> str:
    """Place of a part of an invocation's log, from 1, in a run directory on an object store."""
    return f"attempts/{invocation_id}.{number:04d}.log.jsonl"


def read_log(run: RunDirectory, invocation_id: str) -> bytes:
    """All lines of an invocation's log, in the order in which they were written; b"" without one.

    Wherever the run lies now: a copy of a run of an object store keeps its segments.
    """
    named = run.storage.names("attempts", ".log.jsonl")
    parts = [name for name in named if name.startswith(f"{invocation_id}.")]
    parts.sort(key=lambda name: (len(name), name))  # the plain file, then segments by number
    return b"".join(run.storage.contents(f"attempts/{name}" for name in parts))


class EventLog:
    """Writes events as JSON lines; a log that cannot be written never ends a run."""

    def __init__(self, run: RunDirectory, invocation_id: str) -> None:
        """Open the log.

        Args:
            run: the directory that it is written to: appended line by line to a local file, in
                segments now and then on an object store.
            invocation_id: whose log it is.
        """
        self._storage, self._invocation_id = run.storage, invocation_id
        self._about = {
            "run": run.root.name,
            "plan": run.manifest.plan_id,
            "invocation": invocation_id,
        }
        self._lock = threading.Lock()
        self._file = _local_path(run, log_path(invocation_id))
        self._held, self._number = bytearray(), 1
        self._next_s = time.monotonic() + FEWEST_S
        self._is_new = False

    def observe(self, event: Event) -> None:
        """Write an event's line."""
        is_shard = event.start is not None and event.stop is not None
        fields: dict[str, Any] = {
            "shard": range_name(event.start, event.stop) if is_shard else None,  # type: ignore[arg-type]
            "worker": event.worker or None,
            "host": event.host or None,
            "pid": event.pid,
            "device": event.device,
            "attempt": event.attempt_id,
            "seconds": None if event.seconds is None else round(event.seconds, 3),
            "joules": event.joules,
            "reason": event.reason,
            "traceback": plain(event.traceback),
        }
        self.note(event.kind, _level(event), at=event.time, **fields)

    def failed(self, error: BaseException) -> None:
        """Write what ended the invocation, with the traceback that a worker sent, if one did."""
        raised = traceback.format_exception(error)
        expected = isinstance(error, EvalsuiteError) and not remote_traceback(error)
        self.note(
            "failed",
            "error",
            reason=str(error) or type(error).__name__,
            error=type(error).__name__,
            traceback="" if expected else remote_traceback(error) or "".join(raised),
        )

    def note(
        self, event: str, level: str = "info", *, at: float | None = None, **fields: object
    ) -> None:
        """Write one line; fields that are empty are left out, but for the ones of every line."""
        moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
            **self._about,
            **{name: fields.pop(name, None) for name in ("shard", "worker", "host")},
            **{name: value for name, value in fields.items() if value not in (None, "")},
        }
        content = (json.dumps(line, default=str) + "\n").encode()
        with self._lock:
            if self._file is None:
                self._held += content
                self._is_new = True
            else:
                with contextlib.suppress(OSError):
                    _append(self._file, content)

    def beat(self) -> None:
        """On an object store: write what has come since, if it is time."""
        if self._file is None and self._is_new and time.monotonic() >= self._next_s:
            self._write_held()

    def close(self) -> None:
        """Write what is still held."""
        if self._file is None and self._is_new:
            self._write_held()

    def _write_held(self) -> None:
        began = time.monotonic()
        with self._lock:
            held, self._is_new = bytes(self._held), False
        try:
            while len(held) > SEGMENT_BYTES:
                segment = _first_lines(held)
                self._put(segment)
                held, self._number = held[len(segment) :], self._number + 1
                with self._lock:
                    del self._held[: len(segment)]
            if held:
                self._put(held)
        except StorageError:
            self._is_new = True
        took_s = time.monotonic() - began
        self._next_s = time.monotonic() + max(FEWEST_S, 10 * took_s)

    def _put(self, content: bytes) -> None:
        self._storage.replace(segment_path(self._invocation_id, self._number), content)


def _first_lines(content: bytes) -> bytes:
    """As many whole lines as a segment holds; one at least."""
    end = content.rfind(b"\n", 0, SEGMENT_BYTES)
    return content[: (end if end >= 0 else content.index(b"\n")) + 1]


def remote_traceback(error: BaseException) -> str:
    """The traceback that came from a worker with an error, or "" when it arose here.

    Ray's task error says it as its text; the driver raises the worker's own error out of it.
    """
    exceptions = sys.modules.get("ray.exceptions")  # without Ray nothing came from a worker
    seen: BaseException | None = error if exceptions is not None else None
    while seen is not None:
        if exceptions is not None and isinstance(seen, exceptions.RayTaskError):
            return plain(str(seen))
        seen = seen.__cause__ or seen.__context__
    return ""


def plain(text: str) -> str:
    """Without the colours that Ray puts into tracebacks."""
    return _COLOUR.sub("", text)


def _level(event: Event) -> str:
    return "warning" if event.kind in _WARNINGS else "info"


def _append(path: Path, content: bytes) -> None:
    """One write for one line, so that lines of two threads never mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, content)
    finally:
        os.close(handle)


def _local_path(run: RunDirectory, relative: str) -> Path | None:
    """Where the file lies on a file system; None on an object store."""
    path = run.storage.path(relative)
    return path if isinstance(path, Path) else None
