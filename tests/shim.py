"""The preloaded library `shim.c`, and the folder through which a test tells it what to do.

Why a preloaded library: it acts inside the process under test, between two system calls, so a phase
is hit exactly and not by luck; the product holds no hook for it. What it did stands in `log`.
"""

import atexit
import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from harness import NONE_BEFOREHAND

SOURCE = Path(__file__).with_name("shim.c")
FAST_RAY = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "6",
    **NONE_BEFOREHAND,
}
"""A dead node is known after some three seconds, and not after half a minute."""


class NoCompilerError(Exception):
    """There is no C compiler on this machine."""


class Rule(NamedTuple):
    """What is to happen at an operation on a file of a run; `shim.c` has the words."""

    op: str
    when: str
    pattern: str
    action: str
    number: int = 0


@functools.cache
def compiled() -> Path:
    """The shared library, compiled once by the machine's C compiler.

    Raises:
        NoCompilerError: it has none.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("faults at exact moments need a C compiler: install cc")
    folder = tempfile.mkdtemp(prefix="chaos-shim-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = Path(folder) / "shim.so"
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library)]
    subprocess.run([compiler, *options, str(SOURCE), "-ldl"], check=True)
    return library


def preloaded(root: Path) -> dict[str, str]:
    """Environment of a process, and of its Ray's workers, that the scenes below `root` rule."""
    library = str(compiled())
    return {
        "LD_PRELOAD": library,
        "RAY_LD_PRELOAD_ON_WORKERS": "1",
        "CHAOS_ROOT": str(root),
        **FAST_RAY,
    }


def preloaded_where_possible(root: Path) -> dict[str, str]:
    """As `preloaded`; nothing where there is no compiler."""
    try:
        return preloaded(root)
    except NoCompilerError:
        return {}


class Scene:
    """One run directory, `made`, and the folder `control` that rules it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.control = folder, folder / "made", folder / "control"
        for name in ("rules", "claimed", "release", "drafts"):
            (self.control / name).mkdir(parents=True)

    def arm(self, name: str, rule: Rule) -> str:
        """Put a rule into force; gives its id."""
        self._write(f"rules/{name}", " ".join(map(str, rule)) + "\n")
        return name

    def disarm(self) -> None:
        """Take every rule back and let every waiting thread go."""
        for rule in (self.control / "rules").iterdir():
            rule.unlink(missing_ok=True)
        (self.control / "delay").unlink(missing_ok=True)
        self.release("all")

    def release(self, name: str, word: str = "go") -> None:
        """Let the thread go on that waits at a rule."""
        self._write(f"release/{name}", word)

    def delay(self, milliseconds: int) -> None:
        """Hide files from the processes that did not make them until they are so old."""
        self._write("delay", str(milliseconds))

    def events(self) -> list[dict[str, Any]]:
        """What the library noted, oldest first."""
        try:
            text = (self.control / "log").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    def met(self, name: str) -> dict[str, Any] | None:
        """The moment in which a rule was met, if it was."""
        return next((e for e in self.events() if e.get("rule") == name), None)

    def _write(self, place: str, text: str) -> None:
        """Whole or not at all: a process may read it at any time."""
        draft = self.control / "drafts" / place.replace("/", "-")
        draft.write_text(text)
        os.replace(draft, self.control / place)  # noqa: PTH105 - Path.replace is the same
