"""A campaign counts what struck, and says when that is too little."""

from pathlib import Path
from typing import ClassVar

from campaign import case_of
from phases import BEFORE_DATA, BEFORE_HEARD, COMPACTION, DATA_TO_RECEIPT, OF_A_SHARD
from summary import LEAST_BY_PHASE, LEAST_FAULTS, Record, shortfalls, summary
from worker_faults import MonitorKills, killing_line


def records(phase: str, count: int, *, hit: bool = True) -> list[Record]:
    """Good trials of one fault."""
    struck = [phase] if hit else []
    return [{"trial": n, "fault": phase, "struck": struck, "ok": True} for n in range(count)]


ENOUGH = [*records(BEFORE_DATA, 50), *records(DATA_TO_RECEIPT, 30), *records(COMPACTION, 10)]


def test_a_fault_that_did_not_come_about_is_none() -> None:
    assert shortfalls([*ENOUGH, *records(BEFORE_HEARD, 10)]) == []
    assert shortfalls(
        [*ENOUGH, *records(BEFORE_HEARD, 9), *records(BEFORE_HEARD, 5, hit=False)]
    ) == [
        "99 faults, not 100",
        "9 faults before the driver hears, not 10",
    ]
    assert len(shortfalls([])) == 5


def test_one_trial_may_have_several_faults() -> None:
    thrice = {"trial": 7, "fault": "worker killed", "struck": [BEFORE_HEARD] * 3, "ok": False}
    missed = {"trial": 8, "fault": "worker killed", "struck": [], "ok": True, "workers_lost": 2}
    text = summary([thrice, missed])
    assert (
        text[0] == "3 faults in 2 runs: 1 failed (trials 7), 1 ended before their fault (trials 8)."
    )
    assert "| worker killed | 2 |  |  | 3 |  |  |" in text
    assert "2 workers lost" in text[-1]


def test_a_campaign_of_the_usual_length_is_enough_whatever_the_seed() -> None:
    for seed in range(20):
        cases = [case_of(seed, number, set()) for number in range(120)]
        phases = [case.phase for case in cases]
        assert len(phases) >= LEAST_FAULTS
        assert {
            p for p in (*OF_A_SHARD, COMPACTION) if phases.count(p) < LEAST_BY_PHASE + 3
        } == set()


class Met:
    """A trial whose one rule was met."""

    rules = (1,)
    phases: ClassVar = {1: DATA_TO_RECEIPT}

    @property
    def scene(self) -> "Met":
        return self

    def met(self, rule: int) -> bool:
        return rule in self.rules


def test_the_monitor_s_kills_are_those_that_it_tells_of(tmp_path: Path) -> None:
    """The kernel may have ended the worker before: that is another fault."""
    fault, trial = MonitorKills(), Met()
    (tmp_path / "raylet.out").write_text("Memory monitor started\nKilling worker 3: idle\n")
    fault.said = killing_line(tmp_path)
    assert fault.struck(trial) == []
    (tmp_path / "raylet.err").write_text("a\nKilling 1 worker(s): memory usage 0.97 is above\n")
    fault.said = killing_line(tmp_path)
    assert fault.said.startswith("Killing 1 worker(s)")
    assert fault.struck(trial) == [DATA_TO_RECEIPT]
