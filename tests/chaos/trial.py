"""One trial: a small real run, a fault in it, the same command until it is complete, checks."""

import contextlib
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from checks import Truth, check, count
from fault_base import Fault
from harness import PLAN, Outcome, Process, descendants, finish, start, wait_for
from hosts import Host, end_all
from phases import Point, point_of
from shim import Rule, Scene, preloaded

from evalsuite.artifacts.ledger import SETTLED_NS

NUM_SAMPLES = 80
SHARD = 10
INVOCATIONS = 4
PATIENCE_S = 400
Failed = pytest.fail.Exception
"""What `wait_for` and `finish` of the harness raise."""
PROBLEMS = (AssertionError, Failed, OSError, subprocess.SubprocessError)
PROBLEMS += (RuntimeError, ValueError, LookupError, StopIteration)
"""What may come of a fault; a campaign notes it and goes on."""


class Case(NamedTuple):
    """What a trial is to try; all of it follows from the campaign's seed and the number."""

    number: int
    seed: int
    fault: Fault
    phase: str


class LongRun(NamedTuple):
    """A complete run with more shards than receipts are kept singly."""

    path: Path
    num_samples: int
    truth: Truth


class Trial:
    """A run that is disturbed once."""

    def __init__(
        self,
        case: Case,
        root: Path,
        truth: Truth,
        hosts: Callable[[], Host],
        long_run: Callable[[], LongRun],
    ) -> None:
        """Prepare; `execute` does it.

        Args:
            case: fault, phase and seed.
            root: where scenes lie.
            truth: the undisturbed run.
            hosts: gives a standing cluster of several nodes.
            long_run: gives a complete run that is long enough to be compacted.
        """
        self.case, self.root, self._truth, self.hosts = case, root, truth, hosts
        self.chance = random.Random(f"{case.seed}/{case.number}")
        folder = root / f"trial-{case.number:04d}"
        shutil.rmtree(folder, ignore_errors=True)
        self.scene = Scene(folder)
        self._long = long_run
        self.host = hosts() if case.fault.is_hosted else None
        self.num_workers = 2
        self.env: dict[str, str] = {}
        self.output = str(self.scene.run)
        self.num_samples = NUM_SAMPLES
        self.seen: set[Process] = set()
        self.notes: list[str] = []
        self.rules: list[str] = []
        self.phases: dict[str, str] = {}
        """Of each rule."""
        self.outcomes: list[Outcome] = []

    # What faults use.

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.scene.run

    def note(self, text: str) -> None:
        """Keep a fact for the log."""
        self.notes.append(text)

    def shard(self) -> int:
        """The first sample of a random shard, but not of the very first."""
        return self.chance.randrange(1, NUM_SAMPLES // SHARD) * SHARD

    def point(self, phase: str | None = None, shard: int | None = None) -> Point:
        """A moment of this trial's phase, or of another, for a random shard."""
        return point_of(phase or self.case.phase, shard or self.shard(), self.chance)

    def arm(
        self,
        point: Point,
        action: str,
        number: int = 0,
        phase: str | None = None,
        *,
        lasts: bool = False,
    ) -> str:
        """Let something happen at a moment of a phase, by default this trial's; gives its id.

        A rule that `lasts` is met each time, in `number` of a hundred cases.
        """
        name = f"{'every-' if lasts else ''}{len(self.rules)}-{action}"
        self.phases[name] = phase or self.case.phase
        self.rules.append(self.scene.arm(name, Rule(*point, action, number)))
        return name

    def begin(self, scene: Scene | None = None, **env: str) -> subprocess.Popen[str]:
        """Start the command on this trial's cluster, or a private one."""
        output = scene.run if scene else self.output
        scene = scene or self.scene
        where = ("--address", self.host.address) if self.host else ()
        size = ("--num-samples", self.num_samples, "--shard-size", SHARD)
        work = ("--num-workers", self.num_workers, "--extractor", "digits-convnet")
        command = ("generate", *PLAN, *size, *work, *where, "--output", output)
        env = {**preloaded(self.root), **self.env, **env}
        return start(*command, cwd=scene.folder, **env)

    def wait_met(self, rule: str, driver: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait until a rule is met; it fails when the command ends before."""

        def met() -> dict[str, Any] | None:
            event = self.scene.met(rule)
            if event is None and driver.poll() is not None:
                raise AssertionError(f"the command ended before {rule} was met: {finish(driver)}")
            return event

        event = wait_for(met, PATIENCE_S)
        assert isinstance(event, dict)
        return event

    def take_long_run(self) -> None:
        """Let this trial be about a copy of the long run, which is complete."""
        long = self._long()
        shutil.copytree(long.path, self.run)
        shutil.rmtree(self.run / "ledger", ignore_errors=True)
        time.sleep(SETTLED_NS / 1e9 + 1)  # receipts that changed just now are not compacted yet
        self._truth, self.num_samples = long.truth, long.num_samples

    # The whole of it.

    def execute(self) -> dict[str, Any]:
        """Do it all.

        Returns:
            The line of the campaign's log.
        """
        case, began, problem = self.case, time.monotonic(), ""
        try:
            self._disturb()
            self._complete()
            case.fault.collect(self)
            check(self.run, self._truth, self.num_samples)
        except PROBLEMS as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            self._clear()
        record = self._record(problem, time.monotonic() - began)
        case.fault.end(self)
        return record

    def _disturb(self) -> None:
        fault = self.case.fault
        fault.arm(self)
        driver = self.begin()
        with self._watching(driver.pid):
            fault.strike(self, driver)
            outcome = finish(driver, PATIENCE_S)
        self.outcomes.append(outcome)
        assert_said(outcome, fault.codes)
        unmet = [rule for rule in self.rules if fault.must_meet and not self.scene.met(rule)]
        assert not unmet, f"{unmet} were not met"

    def _complete(self) -> None:
        """The same command until it ends well."""
        self.scene.disarm()
        self.case.fault.heal(self)
        if not self.host:
            wait_for(lambda: not any(process.alive for process in self.seen), 120)
        while self.outcomes[-1].code != 0:
            assert len(self.outcomes) < INVOCATIONS, [o.code for o in self.outcomes]
            driver = self.begin()
            with self._watching(driver.pid):
                self.outcomes.append(finish(driver, PATIENCE_S))
            assert_said(self.outcomes[-1], {0})

    def _clear(self) -> None:
        self.scene.disarm()
        with contextlib.suppress(Failed, OSError):
            self.case.fault.heal(self)
            end_all([process for process in self.seen if process.alive])
            if self.host:
                self.host.refill()

    @contextlib.contextmanager
    def _watching(self, pid: int) -> Any:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.3):
                self.seen |= set(descendants(pid))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _record(self, problem: str, seconds: float) -> dict[str, Any]:
        case = self.case
        events = [*self.scene.events(), *case.fault.events()]
        met = [e for rule in self.rules for e in events if e.get("rule") == rule]
        try:
            counts = count(self.scene, events)._asdict()
        except (OSError, ValueError, KeyError) as error:
            counts, problem = {}, problem or f"nothing to count: {error}"
        return {
            "trial": case.number,
            "fault": case.fault.name,
            "phase": case.phase,
            "hit": [f"{e['when']} {e['op']} {e['path']} by {e['pid']}" for e in met],
            "struck": case.fault.struck(self),
            "codes": [outcome.code for outcome in self.outcomes],
            "said": [outcome.complaints[-1:] for outcome in self.outcomes],
            "noise": [c for o in self.outcomes for c in o.complaints if not c.startswith("evals")],
            "notes": self.notes,
            "seconds": round(seconds, 1),
            **counts,
            "ok": not problem,
            "problem": problem,
        }


def assert_said(outcome: Outcome, codes: set[int]) -> None:
    """An allowed exit code, no traceback, and one line that says why when it is not 0.

    Raises:
        AssertionError: something else.
    """
    assert "Traceback" not in outcome.stderr, outcome.stderr[-3000:]
    assert outcome.code in codes, f"exit code {outcome.code}, not {codes}: {outcome.stderr[-1500:]}"
    if outcome.code > 0:
        ours = [line for line in outcome.complaints if line.startswith("evalsuite: ")]
        assert ours, f"exit code {outcome.code} without a line: {outcome.stderr[-1500:]}"
