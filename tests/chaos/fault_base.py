"""What a fault is: which phases it hits, how it is brought about, and what came of it.

`arm` sets rules before the command starts, `strike` acts while it runs, `heal` ends what would last
(a mount, a dead cluster) before the same command runs again.
"""

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Process, descendants
from phases import OF_A_SHARD

if TYPE_CHECKING:
    from trial import Trial

Driver = subprocess.Popen[str]
KILLED = -signal.SIGKILL


class Fault:
    """What can go wrong in one run."""

    name = ""
    phases: tuple[str, ...] = OF_A_SHARD
    codes: frozenset[int] = frozenset({0})
    """Exit codes of the disturbed command that are right."""
    is_hosted = True
    """Whether it strikes a run on a standing cluster, and not one with a private Ray."""
    must_meet = True
    counts_rules = False
    """Whether each rule that was met is a fault of its own."""

    def arm(self, trial: "Trial") -> None:
        """Before the command starts."""

    def strike(self, trial: "Trial", driver: Driver) -> None:
        """While it runs."""

    def heal(self, trial: "Trial") -> None:
        """When it has ended; twice does no harm."""

    def collect(self, trial: "Trial") -> None:
        """When the run is complete: bring it to `trial.run` if it is elsewhere."""

    def struck(self, trial: "Trial") -> list[str]:
        """The phase of each fault that came about; none when the command ended before."""
        met = [trial.phases[rule] for rule in trial.rules if trial.scene.met(rule)]
        return met if self.counts_rules else met[:1]

    def events(self) -> list[dict[str, Any]]:
        """Operations that the library could not see."""
        return []

    def end(self, trial: "Trial") -> None:
        """When all was checked."""


class Holding(Fault):
    """Faults that strike while a worker waits at a moment of its shard."""

    def arm(self, trial: "Trial") -> None:
        trial.arm(trial.point(), "hold")

    def strike(self, trial: "Trial", driver: Driver) -> None:
        held = trial.wait_met(trial.rules[0], driver)
        self.strike_at(trial, driver, held["pid"])
        trial.scene.release(trial.rules[0])

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        """Act; the worker `pid` waits."""
        raise NotImplementedError


def workers_below(pid: int) -> list[Process]:
    """The worker processes of the Ray below a process."""
    return [p for p in descendants(pid) if p.title.startswith("ray::ShardWorker")]


def parent_of(pid: int) -> int:
    """The process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def title_of(pid: int) -> str:
    """A process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
