"""Any scorer in its own environment on an exported layout: its numbers, with where they came from.

The scorer is a command, not a shell line: `{images}` becomes the folder of the layout and
`{output}` a file that it may write. Its numbers are a JSON object of finite numbers, in that file
or, where it writes none, on its last line of output.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from evalsuite.config import parse_json
from evalsuite.errors import DataError, EnvironmentProblem
from evalsuite.pipeline.channel import check_wanted
from evalsuite.pipeline.exported import ExportedImages
from evalsuite.pipeline.scorer_command import ScorerCommand
from evalsuite.t2i.clustered import LARGEST_SCORE

LONGEST_S = 86_400.0
"""A day: what one call of a scorer may take where nothing else is said."""
_LONGEST = 300
"""Characters of a scorer's words that an error line repeats."""
_WATCHER = 'read -r group || exit 0; read -r end || kill -s KILL -- "-$group"'
"""Waits for two lines, the scorer's group and its end: without the second, we were killed."""


class Given(NamedTuple):
    """What a scorer gave."""

    scores: dict[str, float]
    stdout: str
    seconds: float
    written: bool
    """Whether the numbers come from its file."""


def run_scorer(
    command: ScorerCommand, images: ExportedImages, layout: str, limit_s: float = LONGEST_S
) -> dict[str, Any]:
    """Run a scorer to its end; gives its numbers and their provenance.

    Args:
        command: from `parse_command`.
        images: the exported layout, which is not to be changed by the scorer.
        layout: geneval or dpg.
        limit_s: seconds that it may take.

    Raises:
        EnvironmentProblem: it cannot be started, fails, or takes longer.
        DataError: it gave no numbers, or something else.
    """
    given = run_command(command, images.folder, limit_s)
    return {
        "benchmark": layout,
        "display": f"{layout} by an external scorer",
        "scores": given.scores,
        "provenance": {
            **command.protocol,
            "of": images.about,
            "folder": str(command.folder),
            "seconds": round(given.seconds, 3),
            "stdout_sha256": hashlib.sha256(given.stdout.encode()).hexdigest(),
            "scores_from": "file" if given.written else "last line",
        },
    }


def run_command(command: ScorerCommand, images: Path, limit_s: float = LONGEST_S) -> Given:
    """Run a scorer on a folder.

    Raises:
        EnvironmentProblem: it cannot be started, fails, or takes longer than `limit_s`.
        DataError: it gave no numbers, or something else.
        Closed: this thread works for another, which gave up.
    """
    with tempfile.TemporaryDirectory(prefix="evalsuite-scorer-") as folder:
        output = Path(folder) / "scores.json"
        places = {"{images}": str(images.resolve()), "{output}": str(output)}
        began = time.monotonic()
        line = [command.program, *(_filled(word, places) for word in command.words[1:])]
        stdout = _finished(line, command.folder, limit_s)
        seconds, written = time.monotonic() - began, output.is_file()
        text = output.read_text("utf-8", "replace") if written else _last_line(stdout)
    scores = parse_scores(text, "its {output} file" if written else "its last line")
    return Given(scores, stdout, seconds, written)


def parse_scores(text: str, where: str) -> dict[str, float]:
    """Numbers by name.

    Raises:
        DataError: the text is no JSON object of finite numbers up to `LARGEST_SCORE`, or empty.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        shown = text.strip()[:_LONGEST]
        raise DataError(f"the scorer gave no JSON in {where}: {shown!r} ({error})") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"the scorer gave no JSON object with scores in {where}")
    for name, value in content.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise DataError(f"the scorer gave {name!r} = {value!r} in {where}: no number")
        if abs(value) > LARGEST_SCORE:
            raise DataError(
                f"the scorer gave {name!r} in {where} a number beyond {LARGEST_SCORE:g}: no score"
            )
    return {str(name): float(value) for name, value in content.items()}


def _finished(line: Sequence[str], folder: Path, limit_s: float) -> str:
    """Its output once it has ended well.

    However it ends, the processes that it started end with it, as far as they stayed in its
    group; and it ends with us, even if we are killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _watcher() as watcher:
        try:
            process = subprocess.Popen(  # noqa: S603 - the command that the user gave
                line,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,  # no pipe: what it left running would hold the other end
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot start {line[0]} in {folder}: {error.strerror}"
            ) from error
        try:
            watcher.write(f"{process.pid}\n".encode())
            watcher.flush()
            in_time = _has_ended(process.pid, limit_s)
        finally:
            # until it is waited for, its id is nobody else's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(BrokenPipeError):
                watcher.write(b"end\n")
                watcher.flush()
            process.wait()
        stdout, stderr = _text_of(out), _text_of(err)
    if not in_time:
        raise EnvironmentProblem(
            f"the scorer {line[0]} was stopped after {limit_s:g} s: give another --time-limit"
        )
    if process.returncode:
        words = _last_line(stderr) or _last_line(stdout) or "it said nothing"
        raise EnvironmentProblem(
            f"the scorer {line[0]} ended with {process.returncode}: {words[:_LONGEST]}"
        )
    return stdout


@contextlib.contextmanager
def _watcher() -> Iterator[IO[bytes]]:
    """A process that kills the group that it is told of, should we end before we tell its end.

    Only another process can do so after SIGKILL; that it is a session of its own keeps it from
    signals to ours.
    """
    with subprocess.Popen(  # noqa: S603 - our own words alone
        ["/bin/sh", "-c", _WATCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        yield process.stdin


def _has_ended(pid: int, limit_s: float) -> bool:
    """Wait until a child has ended, without taking its id away; False when it takes longer.

    Raises:
        Closed: nobody waits for it any more.
    """
    deadline, pause_s = time.monotonic() + limit_s, 0.01
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        check_wanted()
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.25)
    return True


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _filled(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
