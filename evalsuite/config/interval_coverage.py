"""How often 95 % intervals held the truth on replicates of real images, as it was measured."""

from functools import cache
from typing import Literal

from pydantic import Field

from evalsuite.config.base import Frozen
from evalsuite.config.loading import data_root, read_yaml

PLACE = "configs/interval-coverage.yaml"


class CoverageCells(Frozen):
    """The cells of one metric, by labels and by what the intervals are of.

    Attributes:
        metric: name in the registry.
        of: `set`, of one set of samples; `pair`, of a difference whose noise is shared.
        labels: whether each class had the same number of samples, or labels were drawn.
        smallest: N from here on
        largest: ... up to here was measured; nothing is known beyond.
        cells: how many plans and numbers of samples.
        covered_percent: lowest, mean and highest share of intervals that held the truth.
        reported_over_observed: lowest and highest ratio of errors to the spread of replicates.
    """

    metric: str
    of: Literal["set", "pair"]
    labels: Literal["balanced", "random"]
    smallest: int = Field(ge=2)
    largest: int = Field(ge=2)
    cells: int = Field(ge=1)
    covered_percent: tuple[float, float, float]
    reported_over_observed: tuple[float, float]


class CoverageTable(Frozen):
    """All that was measured, and where the method and every cell stand."""

    source: str
    cells: tuple[CoverageCells, ...]


@cache
def coverage_table() -> CoverageTable:
    """The table that travels with the package."""
    return CoverageTable.model_validate(read_yaml(data_root() / PLACE))
