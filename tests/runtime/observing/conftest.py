"""A run directory to observe, made without Ray."""

import sys
from pathlib import Path

import pytest

from evalsuite.artifacts.run_directory import RunDirectory

sys.path.insert(0, str(Path(__file__).parents[2] / "report"))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """No sample yet; 90 asked makes 96."""
    from run_builder import make_run

    return make_run(tmp_path / "made", num_images=0)
