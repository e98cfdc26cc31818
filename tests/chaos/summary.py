"""What a campaign came to: a table to be read and kept, and what it lacks of what is asked."""

import collections
from collections.abc import Sequence
from typing import Any

from phases import ANY, COMPACTION, OF_A_SHARD

LEAST_FAULTS = 100
LEAST_BY_PHASE = 10
PHASES = (*OF_A_SHARD, COMPACTION, ANY)
_COUNTS = {
    "computed_twice": "shards computed twice",
    "came_second": "receipts that came second",
    "repaired": "shards repaired",
    "left_files": "data files left for `gc`",
    "workers_lost": "workers lost",
}

Record = dict[str, Any]
"""A line of the log; `struck` has the phase of each fault that came about."""


def shortfalls(records: Sequence[Record]) -> list[str]:
    """What a whole campaign has too few of: a fault that did not come about is none."""
    by_phase = _by_phase(records)
    faults = by_phase.total()
    few = [f"{faults} faults, not {LEAST_FAULTS}"] if faults < LEAST_FAULTS else []
    return few + [
        f"{by_phase[phase]} faults {phase}, not {LEAST_BY_PHASE}"
        for phase in (*OF_A_SHARD, COMPACTION)
        if by_phase[phase] < LEAST_BY_PHASE
    ]


def summary(records: Sequence[Record]) -> list[str]:
    """Lines of Markdown: the totals, a table of faults by phase, and what they cost."""
    failed = sorted(r["trial"] for r in records if not r["ok"])
    in_vain = sorted(r["trial"] for r in records if not r["struck"])
    ends = f"{_said(failed, 'failed')}, {_said(in_vain, 'ended before their fault')}"
    lines = [f"{_by_phase(records).total()} faults in {len(records)} runs: {ends}."]
    lines += ["", f"| fault | runs | {' | '.join(PHASES)} |", "|---" * (2 + len(PHASES)) + "|"]
    by_fault: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        by_fault[record["fault"]].append(record)
    lines += [_row(name, by_fault[name]) for name in sorted(by_fault)]
    lines += [_row("**all**", records), ""]
    costs = [f"{sum(r.get(key, 0) for r in records)} {text}" for key, text in _COUNTS.items()]
    return [*lines, f"In all {', '.join(costs)}."]


def _row(name: str, records: Sequence[Record]) -> str:
    by_phase = _by_phase(records)
    cells = [str(by_phase[phase] or "") for phase in PHASES]
    return f"| {name} | {len(records)} | {' | '.join(cells)} |"


def _by_phase(records: Sequence[Record]) -> collections.Counter[str]:
    return collections.Counter(phase for record in records for phase in record["struck"])


def _said(trials: Sequence[int], what: str) -> str:
    named = f" (trials {', '.join(map(str, trials))})" if trials else ""
    return f"{len(trials) or 'none'} {what}{named}"
