"""An encoder's digest names what decides features, and only that."""

import json
import shutil
from pathlib import Path

import pytest

from evalsuite.conditioning.encoder_files import encoder_digest
from evalsuite.errors import DataError


@pytest.fixture
def copy(qwen_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen_folder, tmp_path / "encoder"))


def test_other_files_do_not_change_the_digest(copy: Path) -> None:
    before = encoder_digest(copy)
    (copy / "README.md").write_text("words")
    (copy / "pytorch_model.bin").write_bytes(b"a pickled copy")
    assert encoder_digest(copy) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_byte_changes_the_digest(copy: Path, name: str) -> None:
    before = encoder_digest(copy)
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    assert encoder_digest(copy) != before


def test_a_pipelines_two_folders_have_the_digest_of_one(copy: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    for part, names in (
        ("text_encoder", ("config.json", "model.safetensors")),
        ("tokenizer", ("tokenizer.json", "tokenizer_config.json")),
    ):
        (pipeline / part).mkdir(parents=True)
        for name in names:
            shutil.copy(copy / name, pipeline / part)
    assert encoder_digest(pipeline) == encoder_digest(copy)


@pytest.mark.parametrize(
    ("shards", "line"),
    [
        (["a.safetensors", "b.safetensors"], "names b.safetensors, which is missing"),
        (["a.safetensors", "../b.safetensors"], "no plain file name"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_must_name_files_that_are_there(copy: Path, shards: list[str], line: str) -> None:
    (copy / "model.safetensors").rename(copy / "a.safetensors")
    index = {"weight_map": {str(number): name for number, name in enumerate(shards)}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=line):
        encoder_digest(copy)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["config.json"], "no config.json"),
        (["model.safetensors"], "pickled weights are not read"),
        (["tokenizer.json", "tokenizer_config.json"], "no tokenizer file"),
    ],
)
def test_missing_parts_are_named(copy: Path, names: list[str], line: str) -> None:
    for name in names:
        (copy / name).unlink()
    with pytest.raises(DataError, match=line):
        encoder_digest(copy)
