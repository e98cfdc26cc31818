"""Shares of a run that a job array makes: which of them are missing, as Slurm writes it."""

import itertools
from collections.abc import Sequence

from evalsuite.artifacts.receipts import NO_END, cover
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, gaps_of
from evalsuite.pipeline.ranges import Range, part_of, whole_batches


def missing_shares(run: RunDirectory, num_samples: int, num_parts: int) -> list[int]:
    """The shares I of I/`num_parts` that lack images; 1-based."""
    size = run.plan.batch_size
    spans = [(part.start, part.stop) for part in cover(run.spans(IMAGES), 0, NO_END)]
    gaps = gaps_of(spans, 0, whole_batches(num_samples, size))
    return [
        part
        for part in range(1, num_parts + 1)
        if _overlaps(part_of(num_samples, size, part, num_parts), gaps)
    ]


def counts_asked(run: RunDirectory) -> tuple[int, int] | None:
    """(num_samples, num_parts) of the latest invocation that made a share; None without one."""
    attempts = sorted(
        run.read_json_folder("attempts"), key=lambda attempt: str(attempt.get("started_at"))
    )
    for attempt in reversed(attempts):
        resolved = attempt.get("resolved", {})
        part, num_samples = resolved.get("part"), resolved.get("num_samples")
        if isinstance(part, list) and len(part) == 2 and isinstance(num_samples, int):
            return num_samples, int(part[1])
    return None


def array_of(parts: Sequence[int]) -> str:
    """Numbers in increasing order as Slurm's `--array` takes them.

    >>> array_of([3, 7, 8, 9, 32])
    '3,7-9,32'
    """
    groups = itertools.groupby(enumerate(parts), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def hint_of_missing_shares(run: RunDirectory) -> str | None:
    """What to resubmit of the job array that makes this run; None when there is nothing to say."""
    asked = counts_asked(run)
    if asked is None:
        return None
    num_samples, num_parts = asked
    missing = missing_shares(run, num_samples, num_parts)
    if not missing:
        return None
    return (
        f"of {num_parts} shares --array={array_of(missing)} are missing:"
        f" `sbatch --array={array_of(missing)} --export=ALL,EVALSUITE_PARTS={num_parts}` and the"
        f" script with its arguments makes them; so does an array of any other size"
    )


def _overlaps(share: Range, gaps: Sequence[Range]) -> bool:
    return any(low < share[1] and share[0] < high for low, high in gaps)
