"""The files of a network in a folder as `save_pretrained` writes it, their digest and loading."""

import contextlib
import importlib
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from evalsuite.artifacts.digests import combined_sha256, known_sha256
from evalsuite.artifacts.shard_index import read_json, read_shard_index
from evalsuite.errors import DataError, EnvironmentProblem

_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
_SAFE = "model.safetensors"
_PICKLED = "pytorch_model.bin"


def network_files(folder: Path) -> list[Path]:
    """The files that decide a network: its configuration and the weights that are opened.

    Safetensors are taken where there are some, whole or in shards; else the tensors of
    `pytorch_model.bin`, which are read without running anything that the file holds.

    Raises:
        DataError: one is missing, or there are an adapter's weights besides.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give one with {_CONFIG} and {_SAFE}")
    config = folder / _CONFIG
    if not config.is_file():
        raise DataError(f"{folder} holds no {_CONFIG}, so it is no network's folder")
    if (folder / _ADAPTER).exists():
        raise DataError(
            f"{folder} holds an {_ADAPTER}, whose weights would be added to the network's: merge"
            " them, or remove it"
        )
    if (index := folder / f"{_SAFE}.index.json").is_file() and not (folder / _SAFE).is_file():
        return [config, index, *sorted(set(read_shard_index(index).values()))]
    for name in (_SAFE, _PICKLED):
        if (folder / name).is_file():
            return [config, folder / name]
    raise DataError(f"{folder} holds no {_SAFE} (nor {_PICKLED})")


def network_sha256(folder: Path) -> str:
    """One SHA-256 of a network's files by name; a readme or a preprocessor does not change it.

    Raises:
        DataError: one is missing.
    """
    return combined_sha256({path.name: known_sha256(path) for path in network_files(folder)})


def read_config(folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """The configuration of a network.

    Args:
        folder: where it lies.
        kinds: `model_type`s that are accepted.

    Raises:
        DataError: a file is missing, it cannot be read, or is of another kind of network.
    """
    network_files(folder)
    config = read_json(folder / _CONFIG)
    if "quantization_config" in config:
        raise DataError(
            f"{folder / _CONFIG} has a quantization_config, which changes the weights as they are"
            " loaded: give the network in float32"
        )
    if config.get("model_type") not in kinds:
        raise DataError(
            f"{folder} holds a network of the kind {config.get('model_type')!r}, not {kinds[0]!r}"
        )
    return config


def load_network(folder: Path, name: str, *, ignored: Sequence[str] = ()) -> nn.Module:
    """A network of transformers in float32 with eager attention, every weight of it accounted for.

    Nothing is fetched, and no program of the folder is run.

    Args:
        folder: one that `read_config` accepts.
        name: the class in transformers.
        ignored: how names of weights begin that belong to another part of the checkpoint, or on
            which no output depends: they may be surplus or missing.

    Raises:
        DataError: weights are unreadable, missing, surplus or of another shape.
        EnvironmentProblem: transformers is not installed.
    """
    library = _transformers()
    with _quiet(library):
        try:
            network, report = getattr(library, name).from_pretrained(
                folder,
                attn_implementation="eager",
                dtype=torch.float32,
                local_files_only=True,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except _UNREADABLE as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"cannot load {name} from {folder}: {reason}") from error
    _check_report(report, folder, ignored)
    assert isinstance(network, nn.Module)
    return network.eval().requires_grad_(False)


_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""What transformers and torch raise over files that are not what they should be."""


def _check_report(report: dict[str, Any], folder: Path, ignored: Sequence[str]) -> None:
    surplus = [key for key in report["unexpected_keys"] if not key.startswith(tuple(ignored))]
    missing = [key for key in report["missing_keys"] if not key.startswith(tuple(ignored))]
    faults = [f"missing {key}" for key in sorted(missing)]
    faults += [f"unexpected {key}" for key in sorted(surplus)]
    reshaped = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    faults += [f"of another shape {key}" for key in sorted(reshaped)]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DataError(f"{folder} holds other weights: {'; '.join(faults[:3])}{more}")


def _transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EnvironmentProblem(
            f"DINOv2 and CLIP need transformers ({error}): install evalsuite with the extra 't2i'"
        ) from error


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:  # noqa: ANN401 - untyped library
    """Keep transformers' report and progress bars off the streams; faults become errors here."""
    log = library.utils.logging
    verbosity, progress = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if progress:
            log.enable_progress_bar()
