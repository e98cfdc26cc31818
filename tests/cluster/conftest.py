"""A real Ray head for the session, and a tree to submit from."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Outcome, run_cli
from heads import Head, free_ports, running_head, with_token


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One head for all tests."""
    with running_head(free_ports()) as started:
        yield started


@pytest.fixture
def at_head(head: Head, small_tree: Path) -> Callable[..., Outcome]:
    """`at_head("jobs", "list")` in a small git tree, with the head's address in the environment."""
    return lambda *words, **env: run_cli(
        *words, cwd=small_tree, **with_token(RAY_API_SERVER_ADDRESS=head.address, **env)
    )


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A git tree with one preset: what is submitted from here takes evalsuite from the cluster."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "mine.yaml").write_text("extends: pixnerd-digits\nname: mine\n")
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    return tree
