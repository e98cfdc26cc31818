"""What a job takes along."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from evalsuite.errors import EnvironmentProblem, UsageError
from evalsuite.runtime.package import LARGEST_BYTES, make_package


def git(tree: Path, *words: str) -> None:
    name = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", str(tree), *name, *words], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree with one committed file of each kind."""
    tree = tmp_path / "tree"
    (tree / "runs" / "a").mkdir(parents=True)
    (tree / ".venv").mkdir()
    git(tree, "init", "-q")
    (tree / ".gitignore").write_text("*.ckpt\n")
    (tree / "tracked.py").write_text("print(1)\n")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "weights.ckpt").write_text("large")
    (tree / "runs" / "a" / "manifest.json").write_text("{}")
    (tree / ".venv" / "pyvenv.cfg").write_text("")
    git(tree, "add", "tracked.py", "run.sh", ".gitignore")
    git(tree, "commit", "-qm", "first")
    (tree / "new größe.yaml").write_text("a: 1\n")
    return tree


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_what_git_tracks_or_would_track(tree: Path, tmp_path: Path) -> None:
    package = make_package(tree, tmp_path / "a.zip")
    assert names(package.path) == [".gitignore", "new größe.yaml", "run.sh", "tracked.py"]
    assert package.num_files == 4
    assert package.num_bytes == package.path.stat().st_size
    assert not package.holds_evalsuite
    assert package.left_out == ()
    with zipfile.ZipFile(package.path) as archive:
        assert archive.read("tracked.py") == b"print(1)\n"
        assert archive.getinfo("run.sh").external_attr >> 16 == 0o755


def test_a_name_that_is_not_utf8_is_refused_by_name(tree: Path, tmp_path: Path) -> None:
    """An archive could not name it; ignored, or no file, it is no hindrance."""
    odd = tree / os.fsdecode(b"caf\xe9.txt")
    odd.write_bytes(b"")
    with pytest.raises(UsageError, match=r"holds caf\\udce9\.txt, whose name is not UTF-8"):
        make_package(tree, tmp_path / "a.zip")
    odd.unlink()
    odd.symlink_to("/")
    package = make_package(tree, tmp_path / "b.zip")
    assert package.left_out == ("caf\\udce9.txt",)


def test_the_revision_says_whether_files_differ(tree: Path, tmp_path: Path) -> None:
    changed = make_package(tree, tmp_path / "a.zip").revision
    (tree / "new größe.yaml").unlink()
    (tree / ".gitignore").write_text("*.ckpt\nruns\n.venv\n")
    git(tree, "commit", "-qam", "second")
    clean = make_package(tree, tmp_path / "b.zip").revision
    assert changed is not None
    assert clean is not None
    assert changed.endswith("+changes")
    assert len(clean) == 40


def test_the_same_files_are_the_same_archive(tree: Path, tmp_path: Path) -> None:
    first = make_package(tree, tmp_path / "a.zip").path.read_bytes()
    os.utime(tree / "tracked.py", (0, 0))
    assert make_package(tree, tmp_path / "b.zip").path.read_bytes() == first
    (tree / "tracked.py").write_text("print(2)\n")
    assert make_package(tree, tmp_path / "c.zip").path.read_bytes() != first


def test_only_what_lies_below_the_folder(tree: Path, tmp_path: Path) -> None:
    (tree / "part").mkdir()
    (tree / "part" / "mine.yaml").write_text("a: 1\n")
    assert names(make_package(tree / "part", tmp_path / "a.zip").path) == ["mine.yaml"]


def test_deleted_files_and_links_that_lead_out(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tree / "out").symlink_to(tmp_path / "secret")
    (tree / "in").symlink_to("tracked.py")
    (tree / "run.sh").unlink()
    package = make_package(tree, tmp_path / "a.zip")
    assert package.left_out == ("out",)
    assert "out" not in names(package.path)
    assert "run.sh" not in names(package.path)
    with zipfile.ZipFile(package.path) as archive:
        assert archive.read("in") == b"print(1)\n"


def test_a_package_that_is_too_large_names_the_largest_files(tree: Path, tmp_path: Path) -> None:
    with (tree / "samples.npz").open("wb") as file:
        file.truncate(LARGEST_BYTES)
    with pytest.raises(UsageError, match=r"100 MiB.*samples\.npz \(100 MiB\), "):
        make_package(tree, tmp_path / "a.zip")


def test_no_work_tree(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    with pytest.raises(UsageError, match="is no git work tree"):
        make_package(tmp_path, tmp_path / "a.zip")


def test_no_git(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="git is needed"):
        make_package(tree, tmp_path / "a.zip")
