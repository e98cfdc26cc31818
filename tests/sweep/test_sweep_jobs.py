"""The demonstrations behind docs/sweeps.md, very small: how often halving keeps the winner."""

import argparse
import concurrent.futures
import math
from pathlib import Path

from evalsuite.sweep.axes import axes_of, combinations
from jobs.digits.sweeps import MODEL, Width, curve, features_path, generate, summary, sweep_once
from jobs.evaluator.simulate_sweeps import NAMES, count, reference, true_distances


def test_halving_on_digits_in_few_samples(tmp_path: Path) -> None:
    """Guidance 5 is dropped on the first rung; nothing is made or judged twice."""
    args = argparse.Namespace(out=tmp_path, num_sweeps=1, last=240, batch_size=60, device="cpu")
    axes = axes_of({"guidance_scale": "1.5,5", "num_steps": "2"}, MODEL)
    configurations = combinations(axes)
    names = [one.name for one in configurations]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        generate(args, configurations, pool)
        made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
        assert sorted(made) == sorted(features_path(tmp_path, 0, name) for name in names)
        for width in (Width("narrow", 0, (120, 240)), Width("wide", 96, (120, 240))):
            found = sweep_once(args, width, 0, names, pool)
            assert found.grid_winner == found.halving_winner == "guidance_scale=1.5"
            assert (found.kept, found.level) == (True, True)
            assert found.samples_percent == 75
            assert "1 sweeps, grid's winner kept in 100%" in summary(width, [found])
        generate(args, configurations, pool)
    assert made == {path: path.stat().st_mtime_ns for path in made}
    good, bad = curve(args, configurations)
    assert good["fid"] < bad["fid"]  # type: ignore[operator]


def test_the_simulation_knows_its_true_winner_and_plain_fid_does_not() -> None:
    deviations, _ = reference(64, 0.0)
    assert math.isclose(float(deviations @ deviations), 64)
    assert NAMES[int(true_distances(deviations).argmin())] == NAMES[0] == "spread 1.01"
    found = count(64, 3, 64, 0.0, 0)
    assert (found.num_samples, found.num_sweeps) == (64, 3)
    assert found.by_plain == 3
    assert found.by_widened == 0
    twice = count(128, 12, 64, 0.0, 0)
    assert (twice.by_plain, twice.by_widened) == (12, 0)
    assert twice.power > 0.2  # a rule that excludes nobody would keep every winner too
