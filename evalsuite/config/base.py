"""What the whole configuration tree stands on: the frozen base class, names and canonical JSON."""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NUMERICS_VERSION = 1
"""Raised when a pinned pixel hash of the digits model changes on an unchanged machine."""

Scalar = bool | int | float | str
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = tuple[Annotated[int, Field(ge=1, le=16384)], Annotated[int, Field(ge=1, le=16384)]]
SolverName = Literal["euler", "heun", "heun_reuse", "adams", "adams2_constant", "dpmpp_2m"]
StepName = Literal["ode", "sde_mean", "sde", "sde_preserve"]
DtypeName = Literal["float32", "bfloat16"]
IntervalEnds = Literal["open", "open_but_zero", "left_open", "closed"]
Uint8Rule = Literal["half_up", "half_even"]
RANDOM_WEIGHTS = "random:"
"""How `--weights` and a plan's `ema` begin when the weights are random numbers."""
MOST_ASYMMETRY = 1e-5
"""Share of the largest entry by which a covariance may differ from its transpose: float32 sums in
another order give up to a few 1e-6, a mistake much."""
SOLVERS_WITH = {
    "step": ("euler",),
    "corrector_guidance": ("heun", "heun_reuse"),
    "coefficients": ("adams",),
}
"""Settings that only some solvers have."""


class Frozen(BaseModel):
    """Base of the tree: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def canonical_json(value: object) -> bytes:
    """The bytes that are hashed: sorted keys, no spaces, shortest floats, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()
