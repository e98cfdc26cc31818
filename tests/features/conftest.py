"""The synthetic Inception of the goldens, an eighth as wide as the real one."""

from pathlib import Path

import pytest
from golden.evaluator_kit import Graph, write_graph

KIT = Path(__file__).parents[1] / "golden" / "cases" / "evaluator"


@pytest.fixture(scope="session")
def narrow_graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Its frozen graph and both state dicts, written once."""
    return write_graph(KIT, 8, tmp_path_factory.mktemp("inception"))
