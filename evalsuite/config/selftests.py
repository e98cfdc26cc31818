"""Self-tests: published files with published numbers, which an installation must reproduce."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from evalsuite.config.base import Frozen
from evalsuite.config.presets import FilePlace


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


class ExpectedValues(Frozen):
    """The metrics that a self-test compares; at least one."""

    fid: ExpectedValue | None = None
    sfid: ExpectedValue | None = None
    inception_score: ExpectedValue | None = None
    precision: ExpectedValue | None = None
    recall: ExpectedValue | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if not self.by_metric:
            raise ValueError("no value is expected")
        return self

    @property
    def by_metric(self) -> dict[str, ExpectedValue]:
        """Those that are given, by the metric's name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}


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
    expected: ExpectedValues
    path: Path = Field(exclude=True)
    """The file that this was read from."""
