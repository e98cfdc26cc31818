"""An empty storage and an empty run."""

from pathlib import Path

import pytest
from artifact_builder import make_manifest, make_plan

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """An empty root."""
    return LocalStorage(tmp_path / "root")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """An empty run."""
    return RunDirectory.create_or_open(tmp_path / "run", make_manifest(make_plan()))
