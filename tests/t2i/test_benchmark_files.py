"""`t2i fetch` and `--benchmark`: pinned files, prompts and counts, with a real server."""

import hashlib
from pathlib import Path

import pytest
import yaml
from harness import call_main

from evalsuite.artifacts.downloads import cached_path
from evalsuite.cli.prepare import with_benchmark
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import UsageError

VALUES = {"prompts": None, "prompt": (), "num_samples": None, "images": None}


def test_published_files_are_pinned() -> None:
    """Every file of GenEval by SHA-256; of DPG-Bench's csv nobody has published one."""
    geneval, dpg = (load_spec(BenchmarkSpec, name) for name in ("geneval", "dpg"))
    assert all(file.place.sha256 and file.place.num_bytes for file in geneval.files)
    assert (geneval.num_prompts * geneval.images_per_prompt, geneval.prompts_file.role) == (
        2212,
        "metadata",
    )
    assert [file.place.sha256 for file in dpg.files] == [None]


def test_a_benchmark_stands_for_prompts_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    content = b'{"tag": "x", "prompt": "a cup", "include": [{"class": "cup", "count": 1}]}\n'
    digest = hashlib.sha256(content).hexdigest()
    base = yaml.safe_load(load_spec(BenchmarkSpec, "geneval").path.read_text())
    place = {"url": "http://127.0.0.1:9/m.jsonl", "filename": "m.jsonl", "sha256": digest}
    own = {**base, "name": "mine", "files": [{"role": "metadata", "place": place}]}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(own))
    asked = {**VALUES, "benchmark": str(path)}
    with pytest.raises(UsageError, match=r"`evalsuite t2i fetch .*mine\.yaml` brings its files"):
        with_benchmark(asked)
    there = cached_path(load_spec(BenchmarkSpec, str(path)).prompts_file.place)
    there.parent.mkdir(parents=True)
    there.write_bytes(content)
    found = with_benchmark(asked)
    assert (found["prompts"], found["num_samples"], found["images"]) == (there, 2212, "all")
    assert with_benchmark({**asked, "num_samples": 5, "images": "none"})["num_samples"] == 5
    with pytest.raises(UsageError, match="brings its prompts: leave --prompts"):
        with_benchmark({**asked, "prompt": ("a",)})
    fetched = call_main("t2i", "fetch", path)
    assert fetched.stdout.startswith(f"metadata       {there}\n553 prompts, 4 images each")
    assert with_benchmark(VALUES) is VALUES


def test_a_benchmark_that_is_not_known_is_refused() -> None:
    done = call_main("t2i", "fetch", "genevel")
    assert (done.code, "did you mean 'geneval'?" in done.stderr) == (2, True)
