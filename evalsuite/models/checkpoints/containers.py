"""What a weights file is, told by its bytes and never by its name, and where a folder keeps it."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from evalsuite.errors import DataError
from evalsuite.models.checkpoints.grouping import is_average

Container = Literal["torch_zip", "safetensors"]

INDEX_SUFFIX = ".safetensors.index.json"
_STEMS = ("diffusion_pytorch_model", "model")
_LIKELY = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", INDEX_SUFFIX)
_NO_AVERAGE = re.compile(r"(?<![a-z])no[nt]?[_-]?ema|ema[_-]?init", re.IGNORECASE)
"""Raw weights beside an average, as diffusers calls them (`.non_ema.`), and PixNerd's files."""
_NAMES_SHOWN = 4
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_FOREIGN = (
    (
        b"version https://git-lfs",
        "is a git-lfs pointer, not the weights: run `git lfs pull`, or download the file itself",
    ),
    (
        _LEGACY_TORCH,
        "was written by torch before 1.6, in a format that cannot be memory-mapped: load it with"
        " torch where you trust it and torch.save it again",
    ),
    (b"\x80", "is a bare pickle, which can run code: save its tensors as safetensors"),
    (b"<", "is a web page or XML, not weights: the download went wrong"),
    (b"GGUF", "is a GGUF file; safetensors and torch checkpoints are read"),
    (b"\x89HDF", "is an HDF5 file; safetensors and torch checkpoints are read"),
    (b"\x1f\x8b", "is compressed by gzip: unpack it first"),
)


class WeightsFolder(NamedTuple):
    """Where a folder keeps its weights.

    Attributes:
        weights: the one file, or the index of a sharded checkpoint.
        config: its `config.json`, if there is one.
    """

    weights: Path
    config: Path | None


def container_of(path: Path) -> Container:
    """The format of a file.

    Raises:
        DataError: it is missing, empty, cut short, or no checkpoint that is read.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(64)
            num_bytes = raw.seek(0, 2)
    except OSError as error:
        raise DataError(f"cannot read weights {path}: {error.strerror}") from error
    if not start:
        raise DataError(f"weights {path} are an empty file: download it again")
    if start.startswith(b"PK\x03\x04"):
        return _checked_zip(path)
    header_bytes = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= header_bytes <= _MAX_HEADER_BYTES:
        if 8 + header_bytes > num_bytes:
            raise DataError(f"weights {path} are cut short: download the file again")
        return "safetensors"
    for magic, fault in _FOREIGN:
        if start.lstrip().startswith(magic):
            raise DataError(f"weights {path}: the file {fault}")
    raise DataError(
        f"weights {path} are neither safetensors nor a torch checkpoint: convert them where they"
        " were made, or download the file again if it should be one"
    )


def _checked_zip(path: Path) -> Container:
    """A zip that torch.save wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(
            f"weights {path} are cut short or damaged ({error}): download the file again"
        ) from error
    if "constants.pkl" in names:
        raise DataError(
            f"weights {path} are a TorchScript program, not a checkpoint: save the state_dict() of"
            " the model as safetensors"
        )
    if "data.pkl" not in names:
        raise DataError(
            f"weights {path} are a zip archive, but not one of torch.save: unpack it if the weights"
            " are in it"
        )
    return "torch_zip"


def locate_weights(folder: Path) -> WeightsFolder:
    """The weights in a diffusers folder, or in the `transformer` folder of one.

    Raises:
        DataError: there are none under the names that diffusers and transformers use, several, or
            an average of them beside them.
    """
    inner = folder / "transformer"
    place = inner if inner.is_dir() else folder
    found = [path for stem in _STEMS if (path := _first_of(place, stem))]
    if not found:
        raise DataError(
            f"{place} is no folder of weights, which would hold {_STEMS[0]}.safetensors,"
            f" {_STEMS[0]}{INDEX_SUFFIX} or {_STEMS[0]}.bin, there or in `transformer`; it holds"
            f" {_held(place)}: name the weights file itself"
        )
    for other in (*found[1:], *_averages_in({folder, place})):
        if not other.samefile(found[0]):
            raise DataError(
                f"{folder} holds two sets of weights, {found[0].relative_to(folder)} and"
                f" {other.relative_to(folder)}, and which one is meant is not guessed: give"
                f" {found[0]} or {other}"
            )
    config = place / "config.json"
    return WeightsFolder(found[0], config if config.is_file() else None)


def _first_of(place: Path, stem: str) -> Path | None:
    """Weights of this name in a folder; other formats of one name are taken for the same."""
    paths = (place / f"{stem}{suffix}" for suffix in (".safetensors", INDEX_SUFFIX, ".bin"))
    return next((path for path in paths if path.is_file()), None)


def _averages_in(folders: set[Path]) -> Iterator[Path]:
    """Weights that are called an average: files, and folders that hold some."""
    for entry in sorted(entry for folder in folders for entry in folder.iterdir()):
        if not is_average(entry.name) or _NO_AVERAGE.search(entry.name) or entry.name[0] == ".":
            continue
        files = entry.glob("*") if entry.is_dir() else (entry,)
        if any(file.name.endswith(_LIKELY) and file.is_file() for file in files):
            yield entry


def _held(folder: Path) -> str:
    """A few of the names in a folder; those that look like weights first."""
    names = sorted((e.name for e in folder.iterdir()), key=lambda n: (not n.endswith(_LIKELY), n))
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{', '.join(names[:_NAMES_SHOWN])}{more}" if names else "nothing"
