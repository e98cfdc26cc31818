"""Sweeps: which settings are tried, on how many samples, and what decides."""

import itertools
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from evalsuite.config.base import Frozen, Scalar

AxisValue = Scalar | tuple[Scalar, ...] | dict[str, Scalar | tuple[Scalar, ...]]
"""One value of an axis: of the setting that names it, or several settings that belong together."""
FEWEST_SAMPLES = 8
"""Of a rung: quarters of it still have a covariance."""


def check_rungs(rungs: tuple[int, ...]) -> tuple[int, ...]:
    """The rungs.

    Raises:
        ValueError: there are none, they do not grow, or the first has too few samples.
    """
    if not rungs:
        raise ValueError("no rung is given")
    if any(low >= high for low, high in itertools.pairwise(rungs)):
        raise ValueError(f"{', '.join(map(str, rungs))} do not grow: each extends the one before")
    if rungs[0] < FEWEST_SAMPLES:
        raise ValueError(f"a rung needs at least {FEWEST_SAMPLES} samples, not {rungs[0]}")
    return rungs


class SweepSpec(Frozen):
    """Every combination of the axes' values, on rungs that extend each other."""

    model: str | None = None
    """Preset; `--model` when absent."""
    axes: dict[str, str | tuple[AxisValue, ...]] = Field(default_factory=dict)
    """Values by the setting that they are of, or a text as the command line takes it:
    `1.5:4.0:0.25`, `1,2,3`."""
    rungs: tuple[int, ...] | None = None
    """Numbers of samples, growing; when absent the preset's N, which halving reaches by smaller
    ones (`sweep.rungs`)."""
    strategy: Literal["grid", "halving"] | None = None
    """halving: drop a setting once its paired interval against the leader excludes it; grid: take
    every one to the last rung. halving when absent."""
    metric: str | None = None
    """What decides; `fid` when absent."""
    better: Literal["lower", "higher"] | None = None
    """Direction; the metric's own when absent."""
    path: Path = Field(exclude=True)
    """The file that this was read from."""

    @field_validator("rungs")
    @classmethod
    def _grow(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if value is None else check_rungs(value)
