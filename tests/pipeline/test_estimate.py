"""What is known of a model's speed, and at which size and dtype that holds."""

from pathlib import Path

import pytest

from evalsuite.pipeline.estimate import nearest_rate
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
    assert found.seconds_per_evaluation == pytest.approx(times * known.seconds_per_evaluation)
    assert ("for the pixels of this size" in found.source) == (times != 1)
