"""Self-tests: published files with published numbers, which an installation must reproduce."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from evalsuite.config.base import Frozen
from evalsuite.config.presets import FilePlace

MetricName = Literal["fid", "sfid", "inception_score", "precision", "recall"]


class ExpectedValue(Frozen):
    """A known value, and how far from it another implementation may be."""

    value: float
    relative: float = Field(default=0.0, ge=0)
    """Tolerance as a share of the value."""
    absolute: float = Field(default=0.0, ge=0)
    """Tolerance in the metric's own units; both are added."""

    @model_validator(mode="after")
    def _has_tolerance(self) -> Self:
        if self.tolerance == 0:
            raise ValueError("a known value needs a tolerance: relative or absolute")
        return self

    @property
    def tolerance(self) -> float:
        """The largest distance from the value that passes."""
        return self.absolute + self.relative * abs(self.value)


class SelftestFiles(Frozen):
    """Where the files of a self-test are published."""

    graph: FilePlace
    reference: FilePlace
    samples: FilePlace

    @property
    def places(self) -> tuple[FilePlace, FilePlace, FilePlace]:
        """All of them."""
        return self.graph, self.reference, self.samples


class SelftestSpec(Frozen):
    """A named self-test: files, the protocol to evaluate them by, and what must come out."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    extractor: str
    """Name of the extractor whose numbers it confirms."""
    protocol: str
    num_samples: int = Field(ge=1)
    files: SelftestFiles
    source: str
    """Who published the values."""
    expected: dict[MetricName, ExpectedValue] = Field(min_length=1)
    path: Path = Field(exclude=True)
    """The file that this was read from."""
