"""One finished run, shared by the tests that only read it."""

from pathlib import Path

import pytest
from run_maker import make_run

from evalsuite.artifacts.run_directory import RunDirectory


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """60 samples in shards of 20, images kept, with features. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("pipeline") / "finished", 60, 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a new run will lie."""
    return tmp_path / "run"
