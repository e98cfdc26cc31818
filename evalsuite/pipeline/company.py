"""Who else makes the same samples of a run, and which of them are made by now."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from evalsuite.artifacts.ledger import Span
from evalsuite.artifacts.live import (
    Life,
    LiveInvocation,
    life_of,
    machine_id,
    read_live,
    silence_of,
)
from evalsuite.artifacts.receipts import RangeIndex
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import parse_json
from evalsuite.errors import EvalsuiteError
from evalsuite.pipeline.coverage import Demand, covered_ranges, tasks_for
from evalsuite.pipeline.ranges import Range, ShardTask, part_of

LOOK_S = 5.0
"""Between two looks at what others have committed, at least."""
_SHARE = 0.02  # of the time of a thread, at most: to list 100,000 receipts takes a while
_LEAVING_S = 10.0


def others_at_work(run: RunDirectory, invocation_id: str, asked: Range) -> list[LiveInvocation]:
    """Other invocations that live, as far as one can see, and whose share touches `asked`.

    Args:
        run: where they leave signs of life.
        invocation_id: our own.
        asked: samples start..stop-1 of ours.
    """
    found = []
    for name, live in sorted(read_live(run.storage).items()):
        if name != invocation_id and life_of(live) in {Life.RUNNING, Life.SILENT}:
            share = _share_of(run, name)
            if share is None or (share[0] < asked[1] and asked[0] < share[1]):
                found.append(live)
    return found


def said_of(other: LiveInvocation) -> str:
    """One line about an invocation that makes the same samples."""
    seen = ""
    if other.machine != machine_id():
        seen = f", last seen {silence_of(other):.0f} s ago"
    return (
        f"`{other.command}` (process {other.pid} on {other.host}{seen}) makes samples of this share"
        " too: what one has committed the other leaves out, but shards that both have in hand are"
        " made twice; if it is a mistake, stop one"
    )


def _share_of(run: RunDirectory, invocation_id: str) -> Range | None:
    """Samples that an invocation was asked for; None when it does not say."""
    content = run.storage.find(f"attempts/{invocation_id}.json")
    try:
        resolved: Any = parse_json(content or b"")["resolved"]
        part, num_parts = resolved["part"] or (1, 1)
        return part_of(resolved["num_samples"], run.plan.batch_size, part, num_parts)
    except (ValueError, KeyError, TypeError):
        return None


def in_company(tasks: Sequence[ShardTask], others: int, invocation_id: str) -> list[ShardTask]:
    """Tasks in an order that meets those of other invocations late.

    Whoever was first goes from the front to the end; a second one comes towards it from the end,
    and any more of them go about at random.
    """
    if others == 1:
        return list(tasks)[::-1]
    mixed = list(tasks)
    if others:
        random.Random(invocation_id).shuffle(mixed)  # noqa: S311 - an order of work, no secret
    return mixed


class Lookout:
    """Looks now and then at what a run holds by now, whoever committed it."""

    def __init__(self, run: RunDirectory, demand: Demand, look_s: float = LOOK_S) -> None:
        """Prepare; `looking` begins.

        Args:
            run: that several invocations may work on.
            demand: what is asked of it.
            look_s: seconds between two looks.
        """
        self._run, self._demand, self._look_s = run, demand, look_s
        self._stands: dict[str, RangeIndex[Span]] | None = None
        self.num_looks = 0
        """Grows when there may be news."""

    def look(self) -> None:
        """Look once. What cannot be read now is reported by whoever needs it."""
        with contextlib.suppress(EvalsuiteError):
            covered = covered_ranges(self._run, self._run.plan, self._demand)
            self._stands = {
                stage: RangeIndex(Span(*one, None) for one in ranges)
                for stage, ranges in covered.items()
            }
            self.num_looks += 1

    def rest_of(self, task: ShardTask) -> list[ShardTask]:
        """What is left of a task; itself, when nobody has made a part of it.

        A shard that repairs one which kept more than is asked now is never left to others.
        """
        if self._stands is None or task.keep is not None:
            return [task]
        near = {
            stage: [span[:2] for span in index.touching(task.start, task.stop)]
            for stage, index in self._stands.items()
        }
        asked, batch_size = (task.start, task.stop), self._run.plan.batch_size
        return tasks_for(near, asked, task.stop - task.start, batch_size)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look again and again in a thread while the block runs."""
        ended = threading.Event()

        def look() -> None:
            wait_s = 0.0
            while not ended.wait(wait_s):
                began = time.monotonic()
                self.look()
                wait_s = max(self._look_s, (time.monotonic() - began) / _SHARE)

        thread = threading.Thread(target=look, name="lookout", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_LEAVING_S)  # a disk that hangs holds nothing up
