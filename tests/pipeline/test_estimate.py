"""What is known of a model's speed, and at which size and dtype that holds."""

from pathlib import Path

import pytest
from run_maker import resolved as resolved_digits

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.pipeline.estimate import Rate, nearest_rate
from evalsuite.pipeline.plan import PlanOptions, resolve_plan


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, 1.0),
        ({"size": (64, 64)}, 16.0),
        ({"sampling": {"num_steps": 3}}, 1.0),
        ({"sampling": {"dtype": "bfloat16"}}, None),
    ],
)
def test_a_rate_of_a_preset_is_of_its_size_and_dtype(
    tmp_path: Path, options: dict[str, object], times: float | None
) -> None:
    resolved = resolve_plan(PlanOptions(model="pixnerd-digits", **options))
    (known,) = [r for r in resolved.preset.known_rates if r.device == "cpu"]
    found = nearest_rate(tmp_path / "run", resolved.plan, resolved.preset, "cpu")
    if times is None:
        assert found is None
        return
    assert found is not None
    assert not found.is_of_workers
    assert found.seconds_per_evaluation == pytest.approx(times * known.seconds_per_evaluation)
    assert ("for the pixels of this size" in found.source) == (times != 1)


def test_a_rate_of_receipts_is_of_workers(finished: RunDirectory) -> None:
    found = nearest_rate(finished.root, finished.plan, resolved_digits().preset, "cpu")
    assert found is not None
    assert found.is_of_workers


@pytest.mark.parametrize(
    ("num_workers", "share", "devices"),
    [(2, 1.0, 2.0), (4, 0.25, 1.0), (5, 0.5, 2.5), (3, 0.5, 1.5), (1, 0.25, 1.0)],
)
def test_workers_that_share_a_device_are_no_faster_than_it(
    num_workers: int, share: float, devices: float
) -> None:
    """A rate of workers that shared one has it in it already."""
    assert Rate(1.0, "a preset").at_once(num_workers, share) == devices
    assert Rate(1.0, "receipts", is_of_workers=True).at_once(num_workers, share) == num_workers
