"""Checkpoints that a training writes: which there are, of which step, and which are complete."""

import glob
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from evalsuite.config import Scalar
from evalsuite.errors import DataError, UsageError
from evalsuite.models.checkpoints.containers import INDEX_SUFFIX
from evalsuite.models.checkpoints.reading import open_checkpoint

SETTLE_S = 10.0
"""A file that did not change for so long is looked into."""
PATIENCE_S = 300.0
"""One that cannot be read and did not change for so long is damaged; before, it may grow yet."""
_WILD = re.compile(r"[*?\[]")
_OF_STEP = re.compile(r"steps?[^0-9A-Za-z]?(\d+)(?![0-9A-Za-z])", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![0-9A-Za-z])(?<!\d\.)\d+(?!\.?\d)(?![A-Za-z])")
_OWN_STEPS = ("global_step", "step", "train_step", "iteration")


class Signature(NamedTuple):
    """What changes while a checkpoint is written, and when it is replaced."""

    num_bytes: int
    modified_ns: int


class Seen(NamedTuple):
    """A checkpoint as it lies there.

    Attributes:
        path: of the file or folder.
        name: below the folder that the pattern names without wildcards.
        signature: of its files together.
        unchanged_s: for how long it has been so, as far as anyone knows.
    """

    path: Path
    name: str
    signature: Signature
    unchanged_s: float


@dataclass
class Lookout:
    """Looks at the files of a pattern again and again.

    Attributes:
        pattern: a glob of local files or folders.
        settle_s: see `SETTLE_S`.
        now: the time, in seconds since 1970.
    """

    pattern: str
    settle_s: float = SETTLE_S
    now: Callable[[], float] = time.time
    _first: dict[Path, tuple[Signature, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a pattern that cannot match what is still to come.

        Raises:
            UsageError: a URL, or a text without a wildcard.
        """
        if "://" in self.pattern:
            raise UsageError(f"{self.pattern}: checkpoints are watched on a local or mounted disk")
        if not _WILD.search(self.pattern):
            raise UsageError(
                f"{self.pattern} has no wildcard, so no other checkpoint could come: quote a"
                " pattern such as 'ckpts/step_*.pt'"
            )

    @property
    def folder(self) -> Path:
        """The part of the pattern before the first wildcard's name."""
        parts = Path(self.pattern).parts
        fixed = next(place for place, part in enumerate(parts) if _WILD.search(part))
        return Path(*parts[:fixed]) if fixed else Path()

    def look(self) -> list[Seen]:
        """What matches now."""
        now, found = self.now(), []
        for text in sorted(glob.glob(self.pattern, recursive=True)):  # noqa: PTH207 - it may be absolute
            path = Path(text)
            signature = signature_of(path)
            if signature is None:
                continue
            first = self._first.get(path)
            if first is None or first[0] != signature:
                first = self._first[path] = (signature, now)
            # the clock of a file server may be ahead of ours: then what was seen here counts
            unchanged_s = max(now - first[1], now - signature.modified_ns / 1e9)
            name = path.relative_to(self.folder).as_posix()
            found.append(Seen(path, name, signature, unchanged_s))
        return found

    def settled(self, seen: Seen) -> bool:
        """Whether nobody seems to write it any more."""
        return seen.unchanged_s >= self.settle_s


def signature_of(path: Path) -> Signature | None:
    """Of a file, of all files of a folder, or of an index with its shards; None without any."""
    try:
        stats = [file.stat() for file in _files_of(path)]
    except OSError:  # removed or renamed meanwhile: the next look tells
        return None
    if not stats:
        return None
    return Signature(sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats))


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
        return
    yield path
    if path.name.endswith(INDEX_SUFFIX):
        yield from sorted(path.parent.glob("*.safetensors"))


def read_about(seen: Seen) -> Mapping[str, Scalar]:
    """What a complete checkpoint says of itself.

    Raises:
        DataError: it cannot be read: half written, damaged, or none that evalsuite reads.
    """
    return open_checkpoint(seen.path).about


def step_in_name(name: str) -> int | None:
    """The training step in a name: the number after `step`, else the only number; None otherwise.

    Digits that touch a letter are no number (`last-v1`, `xl2`), and a name that says `step` and no
    number after it (`step_1e5`) has no other.

    >>> [step_in_name(n) for n in ("epoch=3-step=1200.ckpt", "ema_0.9999/0100000.pt", "ema_v2.pt")]
    [1200, 100000, None]
    """
    found = {int(number) for number in _OF_STEP.findall(name)}
    if not found and "step" not in name.lower():
        found = {int(number) for number in _NUMBER.findall(name)}
    return found.pop() if len(found) == 1 else None


def step_of(seen: Seen, about: Mapping[str, Scalar]) -> int:
    """The training step of a checkpoint: of its name, else as it says itself.

    Raises:
        DataError: neither tells.
    """
    named = step_in_name(seen.name)
    if named is not None:
        return named
    for key in _OWN_STEPS:
        value = about.get(key)
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    raise DataError(
        f"{seen.path}: neither its name nor the checkpoint says of which training step it is:"
        " name it like step_1000.pt"
    )
