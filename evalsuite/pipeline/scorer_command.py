"""A scorer's command: its words as given, where it runs, and the hashes of the files it names."""

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalsuite.artifacts.digests import known_sha256
from evalsuite.errors import DataError, EnvironmentProblem, UsageError

COMMAND = "command:"
_LAUNCHER = re.compile(
    r"(python|pypy|bash|dash|sh|zsh)[0-9.]*|env|nice|nohup|time|timeout|docker|podman|apptainer"
    r"|singularity|conda|mamba|micromamba|pixi|uvx?|poetry|srun|ssh|Rscript|node|perl|java"
)
"""Programs that only start what decides the numbers."""


@dataclass(frozen=True)
class ScorerCommand:
    """A program with its arguments; it travels to workers.

    Attributes:
        words: as they were given; `{images}` and `{output}` stand for places.
        folder: where it runs, and against which relative paths among the words are read.
        version: what the user says of the scorer.
        files_sha256: of the program and of each argument that is a file, by its word. What these
            files read or import is not among them.
    """

    words: tuple[str, ...]
    folder: Path
    version: str | None = None
    files_sha256: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Hash the files, here and now.

        Raises:
            EnvironmentProblem: there is no such program.
            StorageError: a file cannot be read.
        """
        object.__setattr__(self, "files_sha256", self._hashes())

    @property
    def program(self) -> str:
        """The file that runs.

        Raises:
            EnvironmentProblem: there is none.
        """
        first = self.words[0]
        found = shutil.which(str(self.folder / first) if "/" in first else first)
        if found is None:
            raise EnvironmentProblem(
                f"cannot start {first}: there is no such program"
                + (f" in {self.folder}" if "/" in first else " on the PATH")
            )
        return found

    @property
    def protocol(self) -> dict[str, Any]:
        """What is known of what decides the numbers."""
        files = dict(sorted(self.files_sha256.items()))
        said = {} if self.version is None else {"version": self.version}
        return {"command": list(self.words), "files_sha256": files, **said}

    def check_named(self) -> None:
        """Raise UsageError where a changed scorer would go unnoticed: no file of its own is named.

        An interpreter or a container's program is not the scorer, nor is what stands on the PATH.
        """
        first = self.words[0]
        own = self.files_sha256.keys() - {first}
        if "/" in first and _LAUNCHER.fullmatch(Path(first).name) is None:
            own |= {first}
        if not own and self.version is None:
            raise UsageError(
                f"--scorer command:{first} ... names no file of the scorer, so that its old numbers"
                " would be taken after it has changed: name its script, or give --scorer-version"
            )

    def check_here(self) -> None:
        """Raise DataError when the files of this machine are others, or have changed."""
        here = self._hashes()
        for word, digest in self.files_sha256.items():
            if here.get(word) != digest:
                raise DataError(
                    f"the scorer's {word} in {self.folder} is not the file that it was where the"
                    " command began"
                )

    def _hashes(self) -> dict[str, str]:
        found = {self.words[0]: known_sha256(Path(self.program))}
        for word in self.words[1:]:
            for text in (word, word.partition("=")[2]):
                path = self.folder / text
                if text and _is_file(path):
                    found[word] = known_sha256(path)
                    break
        return found


def parse_command(text: str, folder: Path, version: str | None = None) -> ScorerCommand:
    """The words of `command:PROGRAM ARGUMENT ...`, quoted as in a shell.

    Args:
        text: as given.
        folder: where it is to run.
        version: what the user says of the scorer.

    Raises:
        UsageError: it is no command, or does not say where the images go.
        EnvironmentProblem: there is no such program.
    """
    try:
        words = tuple(shlex.split(text.removeprefix(COMMAND)))
    except ValueError as error:
        raise UsageError(f"--scorer {text!r}: {error}") from error
    if not text.startswith(COMMAND) or not words:
        raise UsageError(f"--scorer {text!r} is not command:PROGRAM ...")
    if not any("{images}" in word for word in words):
        raise UsageError(f"--scorer {text!r} does not say where {{images}} are to stand")
    return ScorerCommand(words, folder.absolute(), version)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a word that is too long for a name
        return False
