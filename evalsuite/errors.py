"""Every error that evalsuite raises on purpose: one line each, one exit code each.

    EvalsuiteError                    1   (never raised itself)
    |-- UsageError                     2   an option, a name or a combination that cannot be
    |   `-- ConfigError                2   a preset, a plan or another configuration file is wrong
    |-- DataError                      3   samples, references, weights or features are unusable
    |   |-- CorruptionError            3   bytes are not the ones that a receipt or a digest names
    |   |-- DivergedError              3   weights or a sampler's pixels are NaN or infinite
    |   `-- ReproducibilityError       3   the same plan gave other pixels
    |-- IncompleteError                4   samples that were asked for are missing
    |-- StorageError                   5   a disk or a store cannot be read or written
    |-- EnvironmentProblem             6   this machine or cluster lacks something
    |   `-- WorkerError                6   workers died or failed more often than is sensible
    `-- Interrupted                  130   Ctrl-C (130) or SIGTERM (143); what was committed stays

Exit code 1 is left to bugs, which keep their traceback; `docs/exit-codes.md` is for users.
"""

import difflib
from collections.abc import Iterable


class EvalsuiteError(Exception):
    """Base of all expected errors; its text is one line: what is wrong, where, what to do."""

    exit_code = 1
    may_pass = False
    """Whether the same work may succeed in a fresh process or on another machine (a network that
    failed, a GPU that others filled): a worker's shard is then tried again, within bounds."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class UsageError(EvalsuiteError):
    """An option, a name or a combination of options that cannot be carried out."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or a resolved setting is wrong."""


class DataError(EvalsuiteError):
    """Samples, a reference, weights or features cannot be used."""

    exit_code = 3


class CorruptionError(DataError):
    """Stored bytes differ from the digest that was recorded for them."""


class DivergedError(DataError):
    """Weights, or the pixels that a sampler gave, are NaN or infinite."""


class ReproducibilityError(DataError):
    """The same plan gave other pixels than the ones that were committed."""


class IncompleteError(EvalsuiteError):
    """Samples that are needed have no receipt."""

    exit_code = 4


class StorageError(EvalsuiteError):
    """A file system or an object store refused to read or write."""

    exit_code = 5


class EnvironmentProblem(EvalsuiteError):  # noqa: N818 - EnvironmentError is the built-in
    """This machine or cluster lacks something that was asked for."""

    exit_code = 6


class WorkerError(EnvironmentProblem):
    """A worker failed for good, or was lost too often."""


class Interrupted(EvalsuiteError):  # noqa: N818 - it is the end of a run, not a fault
    """A signal ended the work; committed shards stay."""

    exit_code = 130

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def printable(text: str) -> str:
    r"""A text that is safe to show on a terminal: what cannot be printed is escaped as Python does.

    Names in a file that someone else wrote may hold control sequences.

    >>> printable("größe \x1b[31m")
    'größe \\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause for an error line: the known name that is nearest to `name`, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known here"
