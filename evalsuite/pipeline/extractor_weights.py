"""Weights that a user brings for an extractor: a file, a network's folder, a hub's repository."""

from pathlib import Path

from evalsuite.artifacts.digests import known_sha256
from evalsuite.artifacts.hub import hub_folder
from evalsuite.errors import DataError, UsageError
from evalsuite.features.foundation.files import network_sha256

_HUB = "hub:"


def find_extractor_weights(given: str, *, offline: bool = False) -> Path:
    """What `--extractor-weights` names, fetched if it has to be.

    Args:
        given: a path, or `hub:OWNER/NAME[@REVISION]` for the folder of a repository.
        offline: look nothing up; what is needed must be in the hub's cache.

    Raises:
        UsageError: no name of a repository.
        DataError: there is no such path, repository or revision.
        EnvironmentProblem: the hub cannot be reached.
    """
    if not given.startswith(_HUB):
        if not Path(given).exists():
            raise DataError(f"--extractor-weights {given} does not exist")
        return Path(given)
    repo, _, revision = given.removeprefix(_HUB).partition("@")
    if repo.count("/") != 1 or ":" in given.removeprefix(_HUB):
        raise UsageError(f"--extractor-weights {given!r} is not hub:OWNER/NAME[@REVISION]")
    return hub_folder(repo, revision or None, offline=offline)


def extractor_weights_sha256(path: Path) -> str:
    """SHA-256 of an extractor's weights: of a file, or of a network's folder.

    Raises:
        DataError: a folder that holds no network.
    """
    return network_sha256(path) if path.is_dir() else known_sha256(path)
