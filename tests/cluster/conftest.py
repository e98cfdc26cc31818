"""A real Ray head, and a tree to submit from."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Outcome, call_main
from heads import Head, free_ports, running_head


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """One head for all tests of a file; its dashboard is not idle while nobody asks."""
    with running_head(free_ports()) as started:
        yield started


@pytest.fixture
def at_head(
    head: Head, small_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """`at_head("jobs", "list")` in a small git tree, with the head's address in the environment."""
    monkeypatch.chdir(small_tree)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)
    return call_main


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A git tree with one preset: what is submitted from here takes evalsuite from the cluster."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "mine.yaml").write_text("extends: pixnerd-digits\nname: mine\n")
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    return tree
