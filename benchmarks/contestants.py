"""Programs that do the same work in turn, each in processes that stay from round to round.

A contestant's process says `{"watch": [PID, ...]}` when it is ready, does its work once for every
line on its stdin, and answers each with one line of JSON. Needs nothing but the standard library,
because other programs' Pythons import it too.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from benchmarks.watching import Observed, Usage, observe

ROOT = Path(__file__).resolve().parent.parent
Answer = dict[str, Any]
_LEAST_CPU_S = 0.1
"""Of less the kernel's clock, which ticks a hundred times a second, gives no ratio."""


def serve(run: Callable[[], Answer], watch: Sequence[int] = ()) -> None:
    """The body of a contestant's process, once what it needs is loaded.

    Args:
        run: the work.
        watch: processes whose resources count; this one by default.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    _say(answers, {"watch": list(watch) or [os.getpid()]})
    for _ in sys.stdin:
        _say(answers, run())


def _say(answers: IO[str], answer: Answer) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class Contestant:
    """One way of doing the work: one process or several that share it; use it in a `with` block."""

    def __init__(
        self,
        name: str,
        commands: Sequence[Sequence[str]],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Remember what to start."""
        self.name = name
        self._commands = commands
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._processes: list[subprocess.Popen[str]] = []
        self._watch: list[int] = []

    def __enter__(self) -> Self:
        """Start the processes and wait until they are ready."""
        for command in self._commands:
            self._processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        try:
            self._watch = [pid for answer in self._answers() for pid in answer["watch"]]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def run(self) -> Observed:
        """Do the work once; the result is the processes' answers."""
        return observe(self._watch, self._work)

    def _work(self) -> list[Answer]:
        for process in self._processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return self._answers()

    def _answers(self) -> list[Answer]:
        answers = []
        for process in self._processes:
            assert process.stdout
            line = process.stdout.readline()
            while line and not line.startswith("{"):  # what libraries print while they load
                line = process.stdout.readline()
            if not line:
                raise SystemExit(
                    f"{self.name} ended with exit code {process.wait()}; its last words are above"
                )
            answers.append(json.loads(line))
        return answers

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@dataclass
class Timing:
    """One way's rounds.

    Attributes:
        name: as it is shown.
        rounds: what each took.
        result: what the last one returned.
    """

    name: str
    rounds: list[Usage] = field(default_factory=list)
    result: Any = None

    @property
    def wall_s(self) -> float:
        """Median seconds by the clock."""
        return statistics.median(usage.wall_s for usage in self.rounds)

    @property
    def cpu_s(self) -> float:
        """Median CPU seconds."""
        return statistics.median(usage.cpu_s for usage in self.rounds)

    @property
    def peak_bytes(self) -> int:
        """Most memory of any round."""
        return max(usage.peak_bytes for usage in self.rounds)


class Ratio(NamedTuple):
    """How many times longer another way takes: median of the rounds' ratios."""

    wall: float
    cpu: float


def ratio(other: Timing, ours: Timing) -> Ratio:
    """The rounds of two ways compared one by one, because what slows one slows its neighbour."""
    pairs = list(zip(other.rounds, ours.rounds, strict=True))
    return Ratio(
        statistics.median(a.wall_s / b.wall_s for a, b in pairs),
        statistics.median(
            a.cpu_s / b.cpu_s if b.cpu_s >= _LEAST_CPU_S else math.nan for a, b in pairs
        ),
    )


def alternate(ways: Mapping[str, Callable[[], Observed]], rounds: int) -> dict[str, Timing]:
    """Every way once in turn, `rounds` times."""
    timings = {name: Timing(name) for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            usage, result = run()
            timings[name].rounds.append(usage)
            timings[name].result = result
    return timings
