"""Any scorer in its own environment on an exported layout: its numbers, with where they came from.

The scorer is a command, not a shell line: `{images}` becomes the folder of the layout and
`{output}` a file that it may write. Its numbers are a JSON object of finite numbers, in that file
or, where it writes none, on its last line of output.
"""

import hashlib
import math
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.config import parse_json
from evalsuite.errors import DataError, EnvironmentProblem, UsageError

COMMAND = "command:"
_LONGEST = 300
"""Characters of a scorer's words that an error line repeats."""


class Given(NamedTuple):
    """What a scorer gave."""

    scores: dict[str, float]
    stdout: str
    seconds: float
    written: bool
    """Whether the numbers come from its file."""


def parse_command(text: str) -> tuple[str, ...]:
    """The words of `command:PROGRAM ARGUMENT ...`, quoted as in a shell.

    Raises:
        UsageError: it is no command, or does not say where the images go.
    """
    try:
        words = tuple(shlex.split(text.removeprefix(COMMAND)))
    except ValueError as error:
        raise UsageError(f"--scorer {text!r}: {error}") from error
    if not text.startswith(COMMAND) or not words:
        raise UsageError(f"--scorer {text!r} is not command:PROGRAM ...")
    if not any("{images}" in word for word in words):
        raise UsageError(f"--scorer {text!r} does not say where {{images}} are to stand")
    return words


def run_scorer(words: Sequence[str], images: Path, layout: str) -> dict[str, Any]:
    """Run a scorer to its end; gives its numbers and their provenance.

    Args:
        words: from `parse_command`.
        images: the exported layout, which is not to be changed by the scorer.
        layout: geneval or dpg.

    Raises:
        EnvironmentProblem: it cannot be started, or fails.
        DataError: it gave no numbers, or something else.
    """
    given = run_command(words, images)
    return {
        "benchmark": layout,
        "display": f"{layout} by an external scorer",
        "scores": given.scores,
        "provenance": {
            "command": list(words),
            "program_sha256": program_sha256(words[0]),
            "seconds": round(given.seconds, 3),
            "stdout_sha256": hashlib.sha256(given.stdout.encode()).hexdigest(),
            "scores_from": "file" if given.written else "last line",
        },
    }


def run_command(words: Sequence[str], images: Path) -> Given:
    """Run a scorer on a folder.

    Raises:
        EnvironmentProblem: it cannot be started, or fails.
        DataError: it gave no numbers, or something else.
    """
    with tempfile.TemporaryDirectory(prefix="evalsuite-scorer-") as folder:
        output = Path(folder) / "scores.json"
        places = {"{images}": str(images.resolve()), "{output}": str(output)}
        began = time.monotonic()
        stdout = _finished([_filled(word, places) for word in words])
        seconds, written = time.monotonic() - began, output.is_file()
        text = output.read_text("utf-8", "replace") if written else _last_line(stdout)
    scores = parse_scores(text, "its {output} file" if written else "its last line")
    return Given(scores, stdout, seconds, written)


def parse_scores(text: str, where: str) -> dict[str, float]:
    """Numbers by name.

    Raises:
        DataError: the text is no JSON object of finite numbers, or empty.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        shown = text.strip()[:_LONGEST]
        raise DataError(f"the scorer gave no JSON in {where}: {shown!r} ({error})") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"the scorer gave no JSON object with scores in {where}")
    for name, value in content.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise DataError(f"the scorer gave {name!r} = {value!r} in {where}: no finite number")
    return {str(name): float(value) for name, value in content.items()}


def _finished(line: Sequence[str]) -> str:
    """Its output once it has ended well; it ends with us, and so do processes that it started."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the command that the user gave
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise EnvironmentProblem(f"cannot start {line[0]}: {error.strerror}") from error
    try:
        stdout, stderr = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        words = _last_line(stderr) or _last_line(stdout) or "it said nothing"
        raise EnvironmentProblem(
            f"the scorer {line[0]} ended with {process.returncode}: {words[:_LONGEST]}"
        )
    return stdout


def _filled(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def program_sha256(program: str) -> str | None:
    """Of a program that is a file."""
    path = Path(program)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    except OSError:
        return None
