"""What the whole configuration tree stands on: the frozen base class, names and canonical JSON."""

import json
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Base of the tree: immutable, unknown keys refused; a truth value is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, data: Any) -> Any:  # noqa: ANN401 - whatever is validated
        """Pydantic would take `true` for 1 and `false` for 0."""
        if isinstance(data, Mapping):
            for name, value in data.items():
                truths = value if isinstance(value, list | tuple) and len(value) == 2 else (value,)
                if any(isinstance(v, bool) for v in truths) and not cls._may_be_true(name):
                    raise ValueError(f"{name} must be a number, not {str(value).lower()}")
        return data

    @classmethod
    def _may_be_true(cls, name: object) -> bool:
        """Whether a field takes truth values, or no numbers, of which pydantic makes none."""
        field = cls.model_fields.get(str(name))
        kinds = () if field is None else tuple(_kinds_in(field.annotation))
        return bool in kinds or not (int in kinds or float in kinds)


def _kinds_in(annotation: object) -> Iterator[object]:
    """The classes inside a field's type, such as `tuple[float, float] | None`."""
    inside = typing.get_args(annotation)
    if not inside:
        yield annotation
    for part in inside:
        yield from _kinds_in(part)


def canonical_json(value: object) -> bytes:
    """The bytes that are hashed: sorted keys, no spaces, shortest floats, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()
