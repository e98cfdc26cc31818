"""What an invocation leaves in `attempts/`: the kinds of the fields that readers rely on.

Others may be there, and all may be absent: versions differ in what they note.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalsuite.config import explain


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Resolved(_Lenient):
    num_samples: int | None = None
    extractors: list[str] | None = None
    part: list[int] | None = Field(None, min_length=2, max_length=2)


class _Attempt(_Lenient):
    resolved: _Resolved = Field(default_factory=_Resolved)
    asked: dict[str, Any] = Field(default_factory=dict)
    tags: dict[str, Any] | None = None
    hosts: list[str] = Field(default_factory=list)
    numerics_ids: list[str] = Field(default_factory=list)
    repaired: list[str] = Field(default_factory=list)
    packages: dict[str, Any] = Field(default_factory=dict)
    git: dict[str, Any] | None = None
    counts: dict[str, int] | None = None
    images_made: int = 0
    workers: int = 0
    workers_lost: int = 0
    seconds: float = 0.0


def fault_of_attempt(content: Mapping[str, Any]) -> str | None:
    """Which field of an attempt is of another kind than its readers expect; None when none is."""
    try:
        _Attempt.model_validate(content)
    except ValidationError as error:
        return explain(error, _Attempt)
    return None
