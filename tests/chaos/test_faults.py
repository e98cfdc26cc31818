"""The short version of the campaign: one case each of the faults that matter most."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from checks import Truth, truth_of
from disk_faults import PowerCut
from fault_base import Fault
from harness import FinishedRun, HostedCluster, Outcome, attempts, call_main, receipts
from node_faults import DriverKilled, TwoDrivers
from phases import BEFORE_HEARD, DATA_TO_RECEIPT
from shim import NoCompilerError, compiled
from trial import Case, LongRun, Trial
from worker_faults import WorkerKilled

pytestmark = pytest.mark.ray


LONG = pytest.mark.slow
"""`make faults` has these too, and `make chaos` many times; tests/runtime kills drivers and starts
a second one."""


class Standing(NamedTuple):
    """The tests' cluster, in the words of `hosts.Host`."""

    address: str

    def refill(self) -> None:
        """None of its nodes is killed here."""


class Losing(NamedTuple):
    """A finished trial in which a worker was killed."""

    trial: Trial
    record: dict[str, Any]

    @property
    def outcome(self) -> Outcome:
        """Of the one command."""
        (outcome,) = self.trial.outcomes
        return outcome


def no_long_run() -> LongRun:
    """None of these cases is about compaction."""
    raise AssertionError


@pytest.fixture(scope="module")
def truth(digits_run: FinishedRun) -> Truth:
    """The undisturbed run; 80 samples of a plan are the first 80 of its 200."""
    return truth_of(digits_run.path)


def tried(
    case: Case, chaos_root: Path, cluster: HostedCluster, truth: Truth, num_workers: int = 2
) -> tuple[Trial, dict[str, Any]]:
    """A trial on the tests' cluster, and its line of the log."""
    try:
        compiled()
    except NoCompilerError as error:
        pytest.skip(str(error))
    trial = Trial(case, chaos_root, truth, lambda: Standing(cluster.address), no_long_run)
    trial.num_workers = num_workers
    record = trial.execute()
    assert not record["problem"], record["problem"]
    assert record["hit"], record
    return trial, record


@pytest.fixture(scope="module")
def losing(chaos_root: Path, cluster: HostedCluster, truth: Truth) -> Losing:
    """The only worker dies after it has committed and before the driver hears."""
    case = Case(9, 0, WorkerKilled(), BEFORE_HEARD)
    return Losing(*tried(case, chaos_root, cluster, truth, num_workers=1))


def test_a_lost_worker_is_said_and_noted(losing: Losing) -> None:
    """The pixels are those of the undisturbed run, by one command."""
    assert losing.record["codes"] == [0]
    assert len(losing.record["hit"]) == 1
    (attempt,) = attempts(losing.trial.run)
    lost = attempt["workers_lost"]
    assert lost >= 1  # a busy machine may lose an honest one too
    words = "1 worker lost and replaced" if lost == 1 else f"{lost} workers lost and replaced"
    assert words in losing.outcome.stderr
    assert attempt["outcome"] == "complete"


def test_stdout_has_the_result_alone_though_a_worker_died(losing: Losing) -> None:
    """Ray prints its own account of a death there, whatever `log_to_driver` says."""
    assert losing.outcome.stdout == f"{losing.trial.run}\n"
    assert "raylet" not in losing.outcome.stderr
    assert losing.record["noise"] == []


def test_the_lost_worker_leaves_only_garbage_that_gc_removes(losing: Losing) -> None:
    run = losing.trial.run
    named = {file["path"] for receipt in receipts(run) for file in receipt["files"]}
    assert call_main("gc", run, "--force").code == 0
    assert {f"images/{path.name}" for path in (run / "images").iterdir()} == named


@LONG
@pytest.mark.parametrize(
    ("number", "fault", "phase"),
    [
        pytest.param(1, WorkerKilled(), BEFORE_HEARD, id="three-workers-killed"),
        pytest.param(2, DriverKilled(), DATA_TO_RECEIPT, id="driver-killed"),
        pytest.param(3, TwoDrivers(), DATA_TO_RECEIPT, id="two-drivers"),
        pytest.param(4, PowerCut(), DATA_TO_RECEIPT, id="power-cut"),
    ],
)
def test_the_bytes_are_those_of_the_undisturbed_run(
    number: int,
    fault: Fault,
    phase: str,
    chaos_root: Path,
    cluster: HostedCluster,
    truth: Truth,
) -> None:
    tried(Case(number, 0, fault, phase), chaos_root, cluster, truth)
