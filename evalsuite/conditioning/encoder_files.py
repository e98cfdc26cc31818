"""The files of a text encoder: which of a folder's files count, their digest, the library."""

import hashlib
import importlib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from evalsuite.artifacts.digests import known_sha256
from evalsuite.artifacts.shard_index import read_shard_index
from evalsuite.artifacts.storage import explained
from evalsuite.config import canonical_json
from evalsuite.errors import DataError, EnvironmentProblem

_WEIGHTS = "model.safetensors"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class EncoderFolders(NamedTuple):
    """Where the network and the tokenizer of an encoder lie; often one folder."""

    network: Path
    tokenizer: Path


def encoder_folders(folder: Path) -> EncoderFolders:
    """The folder itself, or `text_encoder` and `tokenizer` below it, as in a diffusers pipeline.

    Raises:
        DataError: neither holds a `config.json`.
    """
    for found in (
        EncoderFolders(folder, folder),
        EncoderFolders(folder / "text_encoder", folder / "tokenizer"),
    ):
        if (found.network / "config.json").is_file():
            return found
    raise DataError(f"{folder} holds no text encoder: there is no config.json in it")


def encoder_digest(folder: Path) -> str:
    """SHA-256 over the names and hashes of the files that decide the features.

    Counted are the weights that `transformers` opens, the configuration and the tokenizer's files;
    a readme, a chat template or pickled copies of the weights do not change it.

    Raises:
        DataError: weights or tokenizer files are missing.
    """
    network, tokenizer = encoder_folders(folder)
    paths = [network / "config.json", *_weight_files(network)]
    own = [path for name in _TOKENIZER_FILES if (path := tokenizer / name).is_file()]
    if not own:
        raise DataError(f"{tokenizer} holds no tokenizer file, such as tokenizer.json")
    hashes = {}
    for path in paths + own:
        with explained(path, "read"):
            hashes[path.name] = known_sha256(path)
    return hashlib.sha256(canonical_json(hashes)).hexdigest()


def import_transformers() -> ModuleType:
    """The library, imported now.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise _not_installed(error) from error


def library_versions() -> dict[str, str]:
    """Versions of the libraries that tokenise and encode, found without importing them.

    Raises:
        EnvironmentProblem: one is not installed.
    """
    try:
        return {name: metadata.version(name) for name in ("transformers", "tokenizers")}
    except metadata.PackageNotFoundError as error:
        raise _not_installed(error) from error


def _not_installed(error: ImportError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"text encoders need transformers ({error}): install evalsuite with the extra 't2i'"
    )


def _weight_files(folder: Path) -> list[Path]:
    """The one safetensors file, or the index and the shards that it names."""
    if (single := folder / _WEIGHTS).is_file():
        return [single]
    index = folder / f"{_WEIGHTS}.index.json"
    if not index.is_file():
        raise DataError(f"{folder} holds no {_WEIGHTS}; pickled weights are not read")
    return [index, *sorted(set(read_shard_index(index).values()))]
