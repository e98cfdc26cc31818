"""Named protocols: the arithmetic, splits and references behind a family of published numbers."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from evalsuite.config.base import Frozen


class SplitRule(Frozen):
    """How samples are divided for an Inception Score."""

    kind: Literal["consecutive", "even", "equal"] = "consecutive"
    """Runs of `size` in order (ADM); `number` splits at i * N // number (torch-fidelity); `number`
    splits of N // number, the remainder left out (dgm-eval)."""
    size: int | None = Field(default=None, ge=1)
    number: int | None = Field(default=None, ge=1)
    seed: int | None = None
    """Of numpy's RandomState, which shuffles first; None keeps the order."""
    zeros: Literal["nan", "zero"] = "nan"
    """What 0 * log 0 is."""

    @model_validator(mode="after")
    def _fits(self) -> "SplitRule":
        consecutive = self.kind == "consecutive"
        if consecutive != (self.size is not None) or consecutive == (self.number is not None):
            raise ValueError("consecutive splits have a size, the others a number")
        if consecutive and self.seed is not None:
            raise ValueError("consecutive splits are not shuffled")
        return self


class NeighbourRule(Frozen):
    """Which points are neighbours, for precision, recall, density and coverage."""

    k: int = Field(default=3, ge=1)
    arithmetic: Literal["float32", "adm-float16"] = "float32"
    strict: bool = False
    """Whether a point at exactly the radius is outside."""


class ProtocolSpec(Frozen):
    """A named protocol: what decides metrics' numbers beside pixels, reference and N."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    description: str
    source: str
    extractor: str | None = None
    """The extractor that its numbers are of; None when any will do."""
    metrics: tuple[str, ...] = Field(min_length=1)
    """What it reports when nothing else is asked."""
    splits: SplitRule = SplitRule(size=5000)
    neighbours: NeighbourRule = NeighbourRule()
    kid: Literal["all_pairs", "subsets"] = "all_pairs"
    """All pairs; or the mean over 100 random subsets of 1,000 (torch-fidelity)."""
    references: dict[str, str] = Field(default_factory=dict)
    """Names of references, by `HxW` of the images that they are for."""
    not_comparable_with: str | None = None
    path: Path = Field(exclude=True)
