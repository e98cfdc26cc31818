"""Weights that a user brings for an extractor: a file, a network's folder, a hub's repository."""

from pathlib import Path

from evalsuite.artifacts.digests import known_sha256
from evalsuite.artifacts.hub import hub_folder
from evalsuite.errors import DataError, UsageError
from evalsuite.features.foundation.files import network_sha256
from evalsuite.pipeline.lock import Lock

_HUB = "hub:"


def find_extractor_weights(given: str, *, offline: bool = False, lock: Lock | None = None) -> Path:
    """What `--extractor-weights` names, fetched if it has to be.

    Args:
        given: a path, or `hub:OWNER/NAME[@REVISION]` for the folder of a repository.
        offline: look nothing up; what is needed must be in the hub's cache.
        lock: what `fetch` brought, which pins the revision.

    Raises:
        UsageError: no name of a repository.
        DataError: there is no such path, repository or revision.
        EnvironmentProblem: the hub cannot be reached.
    """
    if not given.startswith(_HUB):
        if not Path(given).exists():
            raise DataError(f"--extractor-weights {given} does not exist")
        return Path(given)
    repo, revision = _repository(given)
    if lock is not None:
        revision = lock.pin(repo, revision, None).revision
    return hub_folder(repo, revision, offline=offline)


def place_of_weights(given: str | None, folder: Path) -> dict[str, str]:
    """What a lock file says of a repository's folder that `find_extractor_weights` gave."""
    if given is None or not given.startswith(_HUB):
        return {}
    repo, asked = _repository(given)
    return {"repo": repo, "revision": folder.name, **({"asked": asked} if asked else {})}


def _repository(given: str) -> tuple[str, str | None]:
    repo, _, revision = given.removeprefix(_HUB).partition("@")
    if repo.count("/") != 1 or ":" in given.removeprefix(_HUB):
        raise UsageError(f"--extractor-weights {given!r} is not hub:OWNER/NAME[@REVISION]")
    return repo, revision or None


def extractor_weights_sha256(path: Path) -> str:
    """SHA-256 of an extractor's weights: of a file, or of a network's folder.

    Raises:
        DataError: a folder that holds no network.
    """
    return network_sha256(path) if path.is_dir() else known_sha256(path)
