"""The cells of a page of replicates in few lines, by which results say where intervals miss.

python -m jobs.evaluator.interval_coverage docs/uncertainty-replicates.md
prints what `configs/interval-coverage.yaml` holds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from evalsuite.config.interval_coverage import CoverageCells, CoverageTable

_COLUMNS = 10
_UNPAIRED = frozenset({"precision", "recall", "density", "coverage"})
"""Metrics without influence values: their differences are never paired."""


class _Cell(NamedTuple):
    of: str
    labels: str
    count: int
    metric: str
    ratio: float
    covers: float


def table_of_page(page: Path) -> CoverageTable:
    """What a page in the layout of `replicates.table_of` says."""
    cells = [cell for line in page.read_text().splitlines() if (cell := _cell(line))]
    kinds = dict.fromkeys((cell.metric, cell.of, cell.labels) for cell in cells)
    found = [
        _summary([cell for cell in cells if (cell.metric, cell.of, cell.labels) == kind])
        for kind in kinds
        if not (kind[0] in _UNPAIRED and kind[1] == "pair")
    ]
    return CoverageTable(source=f"docs/{page.name}", cells=tuple(found))


def _cell(line: str) -> _Cell | None:
    columns = [column.strip(" *%") for column in line.strip().strip("|").split("|")]
    if len(columns) != _COLUMNS or columns[1] not in {"balanced", "random"}:
        return None
    return _Cell(
        of="pair" if " - " in columns[0] else "set",
        labels=columns[1],
        count=int(columns[2]),
        metric=columns[4],
        ratio=float(columns[7]),
        covers=float(columns[8]),
    )


def _summary(cells: Sequence[_Cell]) -> CoverageCells:
    covers = [cell.covers for cell in cells]
    ratios = [cell.ratio for cell in cells]
    return CoverageCells.model_validate(
        {
            "metric": cells[0].metric,
            "of": cells[0].of,
            "labels": cells[0].labels,
            "smallest": min(cell.count for cell in cells),
            "largest": max(cell.count for cell in cells),
            "cells": len(cells),
            "covered_percent": (min(covers), round(sum(covers) / len(covers), 1), max(covers)),
            "reported_over_observed": (min(ratios), max(ratios)),
        }
    )


def main() -> None:
    """Print the table of one page as YAML."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    content = table_of_page(parser.parse_args().page).model_dump(mode="json")
    print(f"source: {content['source']}\ncells:")
    for cell in content["cells"]:
        line = yaml.safe_dump(cell, default_flow_style=True, width=1000, sort_keys=False)
        print(f"- {line}", end="")


if __name__ == "__main__":
    main()
