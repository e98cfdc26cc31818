"""Who else makes the same samples of a run: a second driver is told of the first."""

import json
from typing import Any

from evalsuite.artifacts.live import (
    Life,
    LiveInvocation,
    life_of,
    machine_id,
    read_live,
    silence_of,
)
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.pipeline.ranges import Range, part_of


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
        " too: what one commits the other drops, so nothing is lost; if it is a mistake, stop one"
    )


def _share_of(run: RunDirectory, invocation_id: str) -> Range | None:
    """Samples that an invocation was asked for; None when it does not say."""
    content = run.storage.find(f"attempts/{invocation_id}.json")
    try:
        resolved: Any = json.loads(content or b"")["resolved"]
        part, num_parts = resolved["part"] or (1, 1)
        return part_of(resolved["num_samples"], run.plan.batch_size, part, num_parts)
    except (ValueError, KeyError, TypeError):
        return None
