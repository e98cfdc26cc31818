"""Files from a hub: pinned to a commit, checked byte by byte, and found again without a network.

The real client talks to a real server on the loopback.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import FIRST, SECOND, Hub, serving

from evalsuite.artifacts.hub import hub_file, hub_folder
from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem, UsageError

WEIGHTS = b"weights of the first commit " * 10
NEWER = b"weights of the second commit" * 10
SMALL = b'{"hidden_size": 16}'
NAME = "folder/epoch%3D319.ckpt"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with two commits; `main` is the first."""
    files = {
        (FIRST, NAME): WEIGHTS,
        (FIRST, "model.safetensors"): WEIGHTS,
        (FIRST, "config.json"): SMALL,
        (FIRST, "program.py"): b"print('no')",
        (FIRST, "pytorch_model.bin"): NEWER,
        (SECOND, "model.safetensors"): NEWER,
    }
    with serving(Hub(files=files)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "digests"))
        yield served


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_pinned_file_is_verified_by_what_the_hub_reports(hub: Hub, tmp_path: Path) -> None:
    """Under a name with a folder and a percent sign, as the published one."""
    found = hub_file(hub.repo, FIRST, NAME, cache_dir=tmp_path)
    assert found.path.read_bytes() == WEIGHTS
    assert found[1:] == (hub.repo, FIRST, NAME, sha256(WEIGHTS), "hub")


def test_a_branch_is_resolved_and_recorded(hub: Hub, tmp_path: Path) -> None:
    """The record names the commit; when the branch moves, the next look-up sees it."""
    first = hub_file(hub.repo, None, "model.safetensors", cache_dir=tmp_path)
    assert (first.revision, first.sha256) == (FIRST, sha256(WEIGHTS))
    hub.branches["main"] = SECOND
    second = hub_file(hub.repo, "main", "model.safetensors", cache_dir=tmp_path)
    assert (second.revision, second.sha256) == (SECOND, sha256(NEWER))
    pinned = hub_file(hub.repo, FIRST, "model.safetensors", cache_dir=tmp_path)
    assert pinned.path.read_bytes() == WEIGHTS


def test_another_commit_in_place_of_the_pinned_one_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.served_commit = SECOND
    with pytest.raises(CorruptionError, match=f"in place of revision {FIRST}"):
        hub_file(hub.repo, FIRST, "model.safetensors", cache_dir=tmp_path)


def test_content_unlike_the_reported_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    """Also the second time, when the wrong bytes are in the cache."""
    hub.reported["model.safetensors"] = sha256(b"something else")
    for _ in range(2):
        with pytest.raises(CorruptionError, match=r"remove .* and download"):
            hub_file(hub.repo, FIRST, "model.safetensors", cache_dir=tmp_path)


def test_content_unlike_the_stated_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    wrong = sha256(b"something else")
    with pytest.raises(CorruptionError, match=f"not {wrong[:12]}"):
        hub_file(hub.repo, FIRST, NAME, sha256=wrong, cache_dir=tmp_path)
    found = hub_file(hub.repo, FIRST, NAME, sha256=sha256(WEIGHTS), cache_dir=tmp_path)
    assert found.verified == "stated"


def test_a_small_file_is_verified_by_gits_hash(hub: Hub, tmp_path: Path) -> None:
    found = hub_file(hub.repo, FIRST, "config.json", cache_dir=tmp_path)
    assert (found.verified, found.sha256) == ("hub_git", sha256(SMALL))
    hub.reported["config.json"] = "0" * 40
    with pytest.raises(CorruptionError):
        hub_file(hub.repo, FIRST, "config.json", cache_dir=tmp_path / "other")


def test_offline_takes_the_cache_and_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    """By the commit, and by the branch as it was; what is not there is said."""
    hub_file(hub.repo, FIRST, NAME, cache_dir=tmp_path)
    hub_file(hub.repo, None, "model.safetensors", cache_dir=tmp_path)
    hub.requests.clear()
    found = hub_file(hub.repo, FIRST, NAME, offline=True, cache_dir=tmp_path)
    assert (found.sha256, found.verified) == (sha256(WEIGHTS), "hub")
    with pytest.raises(EnvironmentProblem, match="--offline looks nothing up"):
        hub_file(hub.repo, FIRST, "config.json", offline=True, cache_dir=tmp_path)
    assert hub.requests == []


def test_offline_notices_a_damaged_cache(hub: Hub, tmp_path: Path) -> None:
    found = hub_file(hub.repo, FIRST, NAME, cache_dir=tmp_path)
    found.path.resolve().write_bytes(WEIGHTS[:-1] + b"?")
    with pytest.raises(CorruptionError):
        hub_file(hub.repo, FIRST, NAME, offline=True, cache_dir=tmp_path)


def test_a_cached_file_of_a_commit_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    hub_file(hub.repo, FIRST, NAME, cache_dir=tmp_path)
    hub.requests.clear()
    assert hub_file(hub.repo, FIRST, NAME, cache_dir=tmp_path).sha256 == sha256(WEIGHTS)
    assert hub.requests == []


def test_what_is_not_there_is_said(hub: Hub, tmp_path: Path) -> None:
    """A repository, a revision, a file; each in one line with what was asked."""
    for repo, revision, name, told in (
        ("someone/other", FIRST, NAME, "no such repository"),
        ("someone/other", "main", NAME, "no such repository"),
        (hub.repo, "3" * 40, NAME, "no such repository or revision"),
        (hub.repo, FIRST, "none.ckpt", "no such file"),
    ):
        with pytest.raises(DataError, match=told) as caught:
            hub_file(repo, revision, name, cache_dir=tmp_path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_gated_repository(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(EnvironmentProblem, match="gated"):
        hub_file(hub.repo, FIRST, NAME, cache_dir=tmp_path)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By commit and by branch: a stale branch in the cache is not taken silently."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for revision in (FIRST, "main"):
        with pytest.raises(EnvironmentProblem, match="hub cannot be"):
            hub_file("someone/model", revision, NAME, cache_dir=tmp_path)


def test_a_stale_branch_is_not_taken_when_the_hub_is_gone(hub: Hub, tmp_path: Path) -> None:
    hub_file(hub.repo, None, NAME, cache_dir=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(EnvironmentProblem, match="cannot be used"):
            hub_file(hub.repo, None, NAME, cache_dir=tmp_path)


def test_a_name_that_is_no_repository(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        hub_file("a/b/c", FIRST, NAME, cache_dir=tmp_path)


def test_without_the_client_one_line_says_so(tmp_path: Path) -> None:
    """In a process where the library cannot be imported."""
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from evalsuite.errors import EnvironmentProblem\n"
        "from evalsuite.artifacts.hub import hub_file\n"
        "try:\n    hub_file('a/b', None, 'c')\n"
        "except EnvironmentProblem as error:\n    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout


def test_a_folder_holds_data_alone_and_all_of_it_checked(hub: Hub, tmp_path: Path) -> None:
    """No pickles and no programs; offline again without a question; a wrong byte is refused."""
    folder = hub_folder(hub.repo, FIRST, cache_dir=tmp_path)
    assert folder.name == FIRST
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
    hub.requests.clear()
    assert hub_folder(hub.repo, FIRST, offline=True, cache_dir=tmp_path) == folder
    assert hub.requests == []
    (folder / "model.safetensors").resolve().write_bytes(NEWER)
    with pytest.raises(CorruptionError, match=r"model\.safetensors"):
        hub_folder(hub.repo, FIRST, offline=True, cache_dir=tmp_path)


def test_a_folder_that_is_not_cached(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="--offline"):
        hub_folder(hub.repo, FIRST, offline=True, cache_dir=tmp_path)
