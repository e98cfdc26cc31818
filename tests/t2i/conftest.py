"""One thread, as these networks are small and the bits are then the same everywhere; and a kit."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # whatever import mode pytest has
from judging_kit import Kit


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Not to be changed."""
    return Kit(tmp_path_factory.mktemp("t2i"))
