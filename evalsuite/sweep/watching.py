"""Watching a training: each new, complete checkpoint is scored once, in the order of the steps.

Nothing is remembered but what runs, records and the watch directory hold, so a watch goes on
wherever it was ended. What belongs to one checkpoint (other keys, damage, images of NaN) is noted,
and the others go on; whatever else fails ends the watch.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import DataError, IncompleteError, UsageError
from evalsuite.pipeline.evaluation import found_record, score_run_by
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.reference_data import PreparedReference, prepare_reference
from evalsuite.runtime.bench import Bench
from evalsuite.runtime.session import SessionRequest
from evalsuite.sweep.checkpoints import (
    PATIENCE_S,
    Lookout,
    Seen,
    Signature,
    read_about,
    signature_of,
    step_in_name,
    step_of,
)
from evalsuite.sweep.directory import reference_to
from evalsuite.sweep.watch_directory import CheckpointEntry, WatchDirectory

Make = Callable[[SessionRequest, str], RunDirectory]
"""Makes what a request lacks, for the checkpoint of this name; gives its run."""
Tell = Callable[[CheckpointEntry, Sequence[Record]], None]
POLL_S = 30.0
"""Between two looks, where nobody says otherwise."""
WARM_S = 60.0
"""For so long after a checkpoint its workers wait for the next one."""
_SLICE_S = 5.0
"""At most so much later they end."""


class Measures:
    """What every checkpoint is measured with; references are made ready once, and at once.

    What is wrong with a reference is no checkpoint's fault, and is found before samples are made.
    """

    def __init__(self, measures: Sequence[Measure], num_samples: int) -> None:
        """Measure the first `num_samples` by each of `measures`.

        Raises:
            DataError: as `prepare_reference`.
        """
        self.measures, self.num_samples = tuple(measures), num_samples
        self._references = [prepare_reference(measure) for measure in self.measures]

    def score(self, run: RunDirectory) -> list[Record]:
        """Records of a run: those that it has, or made now.

        Raises:
            DataError: as `score_run_by`.
        """
        found = [
            found_record(run, name, self.num_samples, measure, reference)
            for measure, reference in zip(self.measures, self._references, strict=True)
            for name in measure.metrics
        ]
        kept = [record for record in found if record is not None]
        if len(kept) == len(found):
            return kept
        return score_run_by(run, self.measures, self.num_samples, self._reference_of)

    def _reference_of(self, measure: Measure) -> PreparedReference | None:
        return self._references[self.measures.index(measure)]


class Work(NamedTuple):
    """What a watch is carried out with.

    Attributes:
        directory: is written.
        lookout: looks for checkpoints.
        every: only steps that are a multiple of it.
        reads: whether checkpoints are read by our own reader before they are taken.
        request_of: the request of a checkpoint's samples; its errors are the checkpoint's.
        make: makes samples.
        measures: what they are measured with.
        tell: is told each scored checkpoint before it counts as scored.
        refresh: writes what follows from the directory, whenever that has changed.
        complain: is told in one line each what cannot be scored.
    """

    directory: WatchDirectory
    lookout: Lookout
    every: int
    reads: bool
    request_of: Callable[[Path, int], SessionRequest]
    make: Make
    measures: Measures
    tell: Tell
    refresh: Callable[[], None]
    complain: Callable[[str], None]


class Due(NamedTuple):
    """A complete checkpoint that is not in the table."""

    step: int
    seen: Seen


@dataclass
class Watching:
    """One invocation of a watch.

    Attributes:
        work: what it is carried out with.
        patience_s: see `PATIENCE_S`.
        failed: what is wrong with files that cannot be scored, by name.
        waiting: why files are not looked at yet, by name.
        scored: how many this invocation scored.
    """

    work: Work
    patience_s: float = PATIENCE_S
    failed: dict[str, tuple[Signature, int | None, str]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    scored: int = 0
    _known: dict[str, Signature] = field(default_factory=dict)
    _entries: dict[int, CheckpointEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take up what the directory remembers."""
        for entry in self.work.directory.entries():
            self._entries[entry.step] = entry
            self._known[entry.file] = Signature(entry.num_bytes, entry.modified_ns)

    @property
    def last_step(self) -> int:
        """The largest that was scored or given up; -1 before the first."""
        given_up = [step for _, step, _ in self.failed.values() if step is not None]
        return max([*self._entries, *given_up], default=-1)

    def reached(self, until: int | None) -> bool:
        """Whether a step, or a later one, was scored or given up."""
        return until is not None and self.last_step >= until

    def waits_for(self, until: int | None) -> bool:
        """Whether a file waits that may be of a step up to this one."""
        steps = (step_in_name(name) for name in self.waiting)
        return any(step is None or not _is_later(step, until) for step in steps)

    def due(self, most: int | None = None) -> list[Due]:
        """Complete checkpoints that are new, by step; notes what waits and what is damaged.

        Args:
            most: leave later steps out; None looks at all.
        """
        self.waiting.clear()
        found = []
        for seen in self.work.lookout.look():
            if self._is_done(seen):
                continue
            step = step_in_name(seen.name)
            if step is not None and (step % self.work.every or _is_later(step, most)):
                continue
            if not self.work.lookout.settled(seen):
                self.waiting[seen.name] = "it changed a moment ago"
                continue
            try:
                step = step_of(seen, read_about(seen) if self.work.reads else {})
            except DataError as error:
                if seen.unchanged_s < self.patience_s:
                    self.waiting[seen.name] = str(error)
                else:
                    self._give_up(seen, step, str(error))
                continue
            if step % self.work.every:
                self._known[seen.name] = seen.signature
            elif not _is_later(step, most):
                found.append(Due(step, seen))
        return sorted(found, key=lambda due: (due.step, due.seen.name))

    def score(self, due: Due) -> CheckpointEntry | None:
        """Make and score a checkpoint's samples, and enter it; None where it is given up."""
        try:
            return self._scored(due)
        except (DataError, UsageError) as error:
            self._give_up(due.seen, due.step, str(error))
            return None

    def check(self, *, once: bool) -> None:
        """Raise when a checkpoint was not scored.

        Args:
            once: nobody will look again, so what is not complete counts too.

        Raises:
            DataError: checkpoints that cannot be scored.
            IncompleteError: some that are not complete, and no others.
        """
        waiting = self.waiting if once else {}
        said = "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
        if self.failed:
            more = f"; and not complete yet: {said}" if said else ""
            raise DataError(
                f"{_many(len(self.failed))} not scored ({', '.join(self.failed)}): the lines above"
                f" say why; all others are in the table{more}"
            )
        if waiting:
            raise IncompleteError(
                f"{_many(len(waiting))} not complete yet, or damaged ({said}): run the same command"
                " again"
            )

    def _is_done(self, seen: Seen) -> bool:
        if self._known.get(seen.name) == seen.signature:
            return True
        failed = self.failed.get(seen.name)
        if failed is None or failed[0] == seen.signature:
            return failed is not None
        del self.failed[seen.name]  # it was replaced since
        return False

    def _scored(self, due: Due) -> CheckpointEntry | None:
        work, seen = self.work, due.seen
        request = work.request_of(seen.path, due.step)
        plan = request.resolved.plan
        before = self._entries.get(due.step)
        if before is not None and before.plan_id == plan.plan_id:
            self._known[seen.name] = seen.signature  # a copy, or only its time is new
            return None
        if before is not None:
            raise DataError(
                f"{seen.path}: step {due.step} is in the table already, of other weights"
                f" ({before.file}): watch another training with a pattern, or --output, of its own"
            )
        if signature_of(seen.path) != seen.signature:
            self.waiting[seen.name] = "it changed while it was read"
            return None
        run = work.make(request, f"step {due.step}")
        records = work.measures.score(run)
        entry = CheckpointEntry(
            step=due.step,
            file=seen.name,
            num_bytes=seen.signature.num_bytes,
            modified_ns=seen.signature.modified_ns,
            weights_sha256=plan.weights_sha256,
            ema=plan.ema,
            plan_id=plan.plan_id,
            run=reference_to(request.root, work.directory.root),
            records=tuple(record.path for record in records),
            scored_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        work.tell(entry, records)
        work.directory.write_entry(entry)
        work.refresh()
        self._entries[entry.step] = entry
        self._known[seen.name] = seen.signature
        self.scored += 1
        return entry

    def _give_up(self, seen: Seen, step: int | None, reason: str) -> None:
        self.failed[seen.name] = (seen.signature, step, reason)
        self.work.complain(reason if seen.path.name in reason else f"{seen.name}: {reason}")


class Warm:
    """A bench that is open while checkpoints come, and for a moment after the last.

    Then its workers end, which hold GPUs, and the connection to Ray, whose head may go away in the
    hours until the next checkpoint.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._now, self._sleep, self._used_s = now, sleep, 0.0
        self._bench: Bench | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def bench(self) -> Iterator[Bench]:
        """The bench, opened where it is not."""
        if self._bench is None:
            self._bench = Bench().__enter__()
        try:
            yield self._bench
        finally:
            self._used_s = self._now()

    def wait(self, seconds: float) -> None:
        """Let time pass, in slices: a pause may be longer than the bench is to be open."""
        end_s = self._now() + seconds
        while (left_s := end_s - self._now()) > 0:
            self._sleep(min(left_s, _SLICE_S))
            self.cool()

    def cool(self) -> None:
        """Close the bench when nobody used it for `WARM_S`."""
        if self._bench is not None and self._now() - self._used_s > WARM_S:
            self.close()

    def close(self) -> None:
        """Close the bench if it is open."""
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.__exit__(None, None, None)


def watch(
    watching: Watching,
    *,
    poll_s: float,
    once: bool,
    until: int | None,
    wait: Callable[[float], None],
) -> None:
    """Look and score until an end that was asked for; without one, until a signal comes.

    Args:
        watching: what is known.
        poll_s: seconds between two looks.
        once: end when all that is there was looked at; what changed a moment ago gets a second
            look.
        until: end when a checkpoint of this step, or a later one, was scored or given up, and no
            earlier one is still being written.
        wait: passes so many seconds.

    Raises:
        EvalsuiteError: whatever ended the work and is no checkpoint's own fault.
    """
    looks = 0
    while True:
        for due in watching.due(until if watching.reached(until) else None):
            if watching.reached(until) and _is_later(due.step, until):
                break
            watching.score(due)
        if watching.reached(until) and not watching.waits_for(until):
            return
        looks += 1
        if once and (looks > 1 or not watching.waiting):
            return
        wait(watching.work.lookout.settle_s if once else poll_s)


def _is_later(step: int, most: int | None) -> bool:
    return most is not None and step > most


def _many(count: int) -> str:
    return "1 checkpoint is" if count == 1 else f"{count} checkpoints are"
