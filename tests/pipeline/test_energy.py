"""Energy and cost: sums of what is known, and nothing where a part is not.

There is no GPU here: `FakeNvml` stands for the library of a machine that has one.
"""

import sys
from types import SimpleNamespace

import pytest
import torch

from evalsuite.artifacts.live import Cost
from evalsuite.pipeline.energy import EnergyMeter, between
from evalsuite.pipeline.spending import Own, cost_of, together


class FakeNvml:
    """One GPU, by its UUID."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, *, processes: int = 1, is_cut: bool = False, counts: bool = True) -> None:
        self.processes, self.is_cut, self.counts = processes, is_cut, counts
        self.millijoules = 5_000_000

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-0a1b":
            raise self.NVMLError("not found")
        return "handle"

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:  # noqa: N802
        return [int(self.is_cut), 0]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[int]:  # noqa: N802
        return [0] * self.processes

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if not self.counts:
            raise self.NVMLError("not supported")
        return self.millijoules


def meter(monkeypatch: pytest.MonkeyPatch, nvml: object, uuid: str | None = "0a1b") -> EnergyMeter:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return EnergyMeter(torch.device("cuda", 0))


def test_the_difference_of_two_readings_is_in_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    gauge = meter(monkeypatch, nvml)
    before = gauge.joules()
    nvml.millijoules += 1_234_500
    assert between(before, gauge.joules()) == 1234.5


@pytest.mark.parametrize(
    ("nvml", "uuid"),
    [
        (FakeNvml(processes=2), "0a1b"),
        (FakeNvml(is_cut=True), "0a1b"),
        (FakeNvml(counts=False), "0a1b"),
        (FakeNvml(), "another"),
        (FakeNvml(), None),
        (None, "0a1b"),  # not installed
    ],
)
def test_what_is_not_known_is_not_guessed(
    nvml: FakeNvml | None, uuid: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert meter(monkeypatch, nvml, uuid).joules() is None


def test_a_cpu_has_no_counter_and_a_counter_that_began_anew_says_nothing() -> None:
    assert EnergyMeter(torch.device("cpu")).joules() is None
    assert between(7.0, 5.0) is None
    assert between(None, 5.0) is None


def test_a_sum_is_unknown_where_a_part_is() -> None:
    """Invocations that found nothing to do leave a sum known; those on CPUs cost no money."""
    dear = Cost(gpu_hours=2.0, energy_joules=10.0, price_per_gpu_hour=3.0, money=6.0)
    cheap = Cost(gpu_hours=1.0, energy_joules=5.0, price_per_gpu_hour=1.0, money=1.0)
    on_cpu, nothing = Cost(cpu_hours=4.0), Cost()
    both = together([dear, cheap, on_cpu, nothing])
    assert both == Cost(gpu_hours=3.0, cpu_hours=4.0, energy_joules=15.0, money=7.0)
    assert together([dear, nothing]).price_per_gpu_hour == 3.0
    unpriced = together([dear, Cost(gpu_hours=1.0)])
    assert (unpriced.gpu_hours, unpriced.energy_joules, unpriced.money) == (3.0, None, None)
    assert together([]) == Cost()


def test_of_an_invocation_that_noted_no_cost_its_receipts_tell() -> None:
    own = Own(shards=2, images=64, gpu_s=1800.0, energy_joules=9.0)
    assert cost_of({"outcome": "running"}, None, own) == Cost(gpu_hours=0.5, energy_joules=9.0)
    noted = {"cost": {"gpu_hours": 0.75}}
    assert cost_of(noted, None, own).gpu_hours == 0.75
    assert cost_of({"cost": {"from": "a newer version"}}, None, own).gpu_hours == 0.5
    assert cost_of(None, None, None) == Cost()
