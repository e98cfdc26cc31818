"""What is known of a model's speed, and at which size and dtype that holds."""

import shutil
from pathlib import Path

import pytest
from run_maker import resolved as resolved_digits

from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
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
    assert found.share == 1
    assert found.seconds_per_evaluation == pytest.approx(times * known.seconds_per_evaluation)
    assert ("for the pixels of this size" in found.source) == (times != 1)


def test_a_rate_of_receipts_is_of_their_workers_share(
    finished: RunDirectory, tmp_path: Path
) -> None:
    """As the invocation noted it that made the shard of the median; without a note, of a device."""
    shutil.copytree(finished.root, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    for receipt, (maker, seconds) in zip(
        run.receipts(IMAGES), [("a1", 1.0), ("a2", 2.0), ("a3", 3.0)], strict=True
    ):
        changes = {
            "attempt_id": f"{maker}-00000",
            "seconds": {"compute": seconds * (receipt.stop - receipt.start) * receipt.nfe},
            "numerics": receipt.numerics | {"device": "cuda"},
        }
        changed = receipt.model_copy(update=changes)
        run.storage.replace(receipt.name, changed.model_dump_json().encode())

    def found() -> Rate | None:
        return nearest_rate(run.root, run.plan, resolved_digits().preset, "cuda")

    source = f"receipts of {run.root}"
    assert found() == Rate(2.0, source)

    def note(maker: str, share: object, workers: object = 4, asked: object = None) -> None:
        resolved = {"gpus_per_worker": share, "num_workers": asked}
        run.write_json(f"attempts/{maker}.json", {"workers": workers, "resolved": resolved})

    for maker, share in (("a1", 1.0), ("a2", 0.25), ("a3", 0.5)):
        note(maker, share)
    assert found() == Rate(2.0, source, share=0.25)
    note("a2", 0.25, 2)
    assert found() == Rate(2.0, source, share=0.5)
    for asked, share in ((None, 0.25), (2, 0.5), (1, 1.0)):  # killed before it noted its workers
        note("a2", 0.25, 0, asked)
        assert found() == Rate(2.0, source, share=share)
    for alone in (1, None, -1, "x"):  # it had the whole GPU, or nothing is known of others
        note("a2", 0.25, alone)
        assert found() == Rate(2.0, source)
    for odd in (0, -1, 2, "x", None, [], float("nan")):
        note("a2", odd)
        assert found() == Rate(2.0, source)


@pytest.mark.parametrize(
    ("num_workers", "share", "alone", "of_four"),
    [
        (2, 1.0, 2.0, 2.0),
        (4, 0.25, 1.0, 4.0),
        (5, 0.5, 2.5, 5.0),
        (3, 0.5, 1.5, 3.0),
        (1, 0.25, 1.0, 1.0),
        (8, 0.125, 1.0, 4.0),
    ],
)
def test_workers_that_share_a_device_are_no_faster_than_it(
    num_workers: int, share: float, alone: float, of_four: float
) -> None:
    """A rate of workers of whom four shared one has that much of it in it already."""
    assert Rate(1.0, "receipts or a preset").at_once(num_workers, share) == alone
    assert Rate(1.0, "receipts", share=0.25).at_once(num_workers, share) == of_four


def test_the_same_workers_are_forecast_as_they_were_measured() -> None:
    """Two that asked for a quarter each had a half."""
    assert Rate(1.0, "receipts", share=0.5).at_once(2, 0.25) == 2
