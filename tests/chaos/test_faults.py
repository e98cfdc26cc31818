"""The short version of the campaign: one case each of the faults that matter most."""

from pathlib import Path
from typing import NamedTuple

import pytest
from checks import Truth, truth_of
from disk_faults import PowerCut
from fault_base import Fault
from harness import FinishedRun, HostedCluster
from node_faults import DriverKilled, TwoDrivers
from phases import BEFORE_HEARD, DATA_TO_RECEIPT
from shim import NoCompilerError, compiled
from trial import Case, LongRun, Trial
from worker_faults import WorkerKilled

pytestmark = pytest.mark.ray


LONG = pytest.mark.slow
"""`make chaos` has these faults too, many times; tests/runtime kills drivers."""


class Standing(NamedTuple):
    """The tests' cluster, in the words of `hosts.Host`."""

    address: str

    def refill(self) -> None:
        """None of its nodes is killed here."""


def no_long_run() -> LongRun:
    """None of these cases is about compaction."""
    raise AssertionError


@pytest.fixture(scope="module")
def truth(digits_run: FinishedRun) -> Truth:
    """The undisturbed run; 80 samples of a plan are the first 80 of its 200."""
    return truth_of(digits_run.path)


@pytest.mark.parametrize(
    ("number", "fault", "phase"),
    [
        pytest.param(1, WorkerKilled(), BEFORE_HEARD, id="worker-killed"),
        pytest.param(2, DriverKilled(), DATA_TO_RECEIPT, id="driver-killed", marks=LONG),
        pytest.param(3, TwoDrivers(), DATA_TO_RECEIPT, id="two-drivers"),
        pytest.param(4, PowerCut(), DATA_TO_RECEIPT, id="power-cut", marks=LONG),
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
    try:
        compiled()
    except NoCompilerError as error:
        pytest.skip(str(error))
    case = Case(number, 0, fault, phase)
    record = Trial(
        case, chaos_root, truth, lambda: Standing(cluster.address), no_long_run
    ).execute()
    assert not record["problem"], record["problem"]
    assert record["hit"], record
