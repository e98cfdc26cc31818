"""Weights of an extractor by path and from a hub: the same network, the same digest, refusals."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_networks import save_dinov2

from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.extractor_weights import (
    extractor_weights_sha256,
    find_extractor_weights,
    place_of_weights,
)
from evalsuite.pipeline.lock import Lock, LockedItem

FIRST = "1" * 40
"""The commit of the test hub."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` writes it."""
    return save_dinov2(tmp_path_factory.mktemp("network") / "dinov2")


@pytest.fixture
def hub(network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The same files on a hub, with a readme and a program."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "artifacts"))
    from hub_server import Hub, serving

    files = {(FIRST, path.name): path.read_bytes() for path in network.iterdir()}
    files |= {(FIRST, "README.md"): b"hello", (FIRST, "modeling.py"): b"print('no')"}
    with serving(Hub(files=files)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "digests"))
        yield served


@pytest.mark.parametrize("revision", ["", "@main", f"@{FIRST}"])
def test_a_repository_is_a_folder_with_the_same_digest(
    revision: str, hub: Any, network: Path
) -> None:
    """Only what the network is made of is fetched, and by its commit it is found offline."""
    folder = find_extractor_weights(f"hub:{hub.repo}{revision}")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert extractor_weights_sha256(folder) == extractor_weights_sha256(network)
    asked = len(hub.requests)
    assert find_extractor_weights(f"hub:{hub.repo}@{FIRST}", offline=True) == folder
    assert len(hub.requests) == asked


def test_a_lock_keeps_to_the_repository_that_was_fetched(hub: Any) -> None:
    """The branch has moved since; what the lock lacks is refused."""
    given = f"hub:{hub.repo}"
    folder = find_extractor_weights(given)
    place = place_of_weights(given, folder)
    assert place == {"repo": hub.repo, "revision": FIRST}
    lock = Lock(
        model="m", items=(LockedItem(what="extractor", name="d", sha256="0" * 64, **place),)
    )
    hub.branches["main"] = "2" * 40
    hub.requests.clear()
    assert find_extractor_weights(given, offline=True, lock=lock) == folder
    assert hub.requests == []
    with pytest.raises(UsageError, match="the lock file holds revision the newest of it"):
        find_extractor_weights(f"{given}@v2", lock=lock)
    assert place_of_weights(str(folder), folder) == {}


def test_a_file_is_named_by_its_own_digest(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    assert find_extractor_weights(str(file)) == file
    assert extractor_weights_sha256(file) == hashlib.sha256(b"weights").hexdigest()


def test_what_is_nowhere_is_refused(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--extractor-weights .*absent does not exist"):
        find_extractor_weights(str(tmp_path / "absent"))
    for wrong in ("hub:model", "hub:a/b/c", f"hub:{hub.repo}:model.safetensors"):
        with pytest.raises(UsageError, match=r"is not hub:OWNER/NAME\[@REVISION\]"):
            find_extractor_weights(wrong)
    with pytest.raises(DataError, match="no such repository"):
        find_extractor_weights("hub:someone/else")
    with pytest.raises(DataError, match=r"no config\.json"):
        extractor_weights_sha256(tmp_path)
