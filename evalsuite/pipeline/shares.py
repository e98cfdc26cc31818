"""Shares of a run that a job array makes: which of them are missing, as Slurm writes it."""

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from evalsuite.artifacts.receipts import NO_END, cover
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, feature_stage, gaps_of
from evalsuite.pipeline.ranges import Range, part_of, whole_batches


class ArrayRun(NamedTuple):
    """What each task of a job array was asked to make, apart from its share."""

    num_samples: int
    num_parts: int
    extractors: tuple[str, ...] = ()
    """Ids of those whose features are made too."""


def missing_shares(
    run: RunDirectory, array: ArrayRun, num_samples: int, extractor_ids: Collection[str] = ()
) -> list[int]:
    """The shares I of I/num_parts of an array that lack what an evaluation needs; 1-based.

    Args:
        run: that the array makes.
        array: what its tasks make.
        num_samples: that are evaluated.
        extractor_ids: whose features are; what the array makes none of is not its fault.
    """
    size = run.plan.batch_size
    stop = whole_batches(min(num_samples, array.num_samples), size)
    stages = [IMAGES, *(feature_stage(name) for name in array.extractors if name in extractor_ids)]
    gaps = {gap for stage in stages for gap in _gaps(run, stage, stop)}
    return [
        part
        for part in range(1, array.num_parts + 1)
        if _overlaps(part_of(array.num_samples, size, part, array.num_parts), gaps)
    ]


def latest_array(run: RunDirectory) -> ArrayRun | None:
    """That of the latest invocation that made a share; None without one."""
    attempts = sorted(run.attempts(), key=lambda attempt: str(attempt.get("started_at")))
    for attempt in reversed(attempts):
        resolved = attempt.get("resolved", {})
        part, num_samples = resolved.get("part"), resolved.get("num_samples")
        if isinstance(part, list) and len(part) == 2 and isinstance(num_samples, int):
            extractors = resolved.get("extractors") or ()
            return ArrayRun(num_samples, int(part[1]), tuple(map(str, extractors)))
    return None


def array_of(parts: Sequence[int]) -> str:
    """Numbers in increasing order as Slurm's `--array` takes them.

    >>> array_of([3, 7, 8, 9, 32])
    '3,7-9,32'
    """
    groups = itertools.groupby(enumerate(parts), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def hint_of_missing_shares(
    run: RunDirectory, num_samples: int, extractor_ids: Collection[str]
) -> str | None:
    """What to resubmit of the job array that makes this run; None when there is nothing to say.

    Arguments are as those of `missing_shares`.
    """
    array = latest_array(run)
    missing = missing_shares(run, array, num_samples, extractor_ids) if array else []
    if array is None or not missing:
        return None
    num_parts = array.num_parts
    return (
        f"of {num_parts} shares --array={array_of(missing)} are missing:"
        f" `sbatch --array={array_of(missing)} --export=ALL,EVALSUITE_PARTS={num_parts}` and the"
        f" script with its arguments makes them; so does an array of any other size"
    )


def _gaps(run: RunDirectory, stage: str, stop: int) -> list[Range]:
    spans = [(part.start, part.stop) for part in cover(run.spans(stage), 0, NO_END)]
    return gaps_of(spans, 0, stop)


def _overlaps(share: Range, gaps: Collection[Range]) -> bool:
    return any(low < share[1] and share[0] < high for low, high in gaps)
