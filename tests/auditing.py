"""What the Python processes of a command open and connect to, noted by the interpreter itself."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from harness import REPOSITORY

_HOOK = """
import json, os, sys

_notes = os.open({notes!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def _note(event, arguments):
    if event == "open":
        path, mode = str(arguments[0]), str(arguments[1])
        if path.startswith({below!r}) and "w" not in mode:
            _write(event, path)
    elif event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        _write(event, arguments[1] if event != "socket.getaddrinfo" else arguments[0])

def _write(event, what):
    what = what.decode("utf-8", "replace") if isinstance(what, bytes) else what
    line = json.dumps([os.getpid(), sys.argv[0] if sys.argv else "", event, what], default=str)
    os.write(_notes, line.encode() + b"\\n")

sys.addaudithook(_note)
"""


class Note(NamedTuple):
    """One thing that a process did."""

    pid: int
    program: str
    event: str
    what: str | list[object] | None

    @property
    def host(self) -> str | None:
        """Where a connection went; None for a socket of the file system."""
        if isinstance(self.what, list):
            return str(self.what[0])
        return self.what if self.event == "socket.getaddrinfo" else None

    @property
    def is_worker(self) -> bool:
        """Whether the process is one of Ray's workers, which run our code."""
        return self.program.endswith("default_worker.py")

    @property
    def is_rays_own(self) -> bool:
        """Whether the process is a service of Ray."""
        return "site-packages/ray/" in self.program and not self.is_worker


class Audit(NamedTuple):
    """The notes of all Python processes that were started with `environment`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Puts the hook in front of whatever a Python process runs."""
        return {"PYTHONPATH": os.pathsep.join((str(self.folder), str(REPOSITORY)))}

    def all_notes(self) -> list[Note]:
        """What was noted, in order."""
        lines = (self.folder / "notes").read_text().splitlines()
        return [Note(*json.loads(line)) for line in lines]

    def workers_that_opened(self, path: Path) -> set[int]:
        """The workers that opened a file for reading."""
        return {
            note.pid
            for note in self.all_notes()
            if note.is_worker and note.event == "open" and note.what == str(path)
        }


def audited(folder: Path) -> Audit:
    """Make the folder of a hook that notes files opened beside it, and every connection."""
    folder.mkdir()
    hook = _HOOK.format(notes=str(folder / "notes"), below=str(folder.parent))
    (folder / "sitecustomize.py").write_text(hook)
    return Audit(folder)
