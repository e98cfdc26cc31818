"""The folder of a diffusers pipeline, read as data: what it is made of, and what decides pixels."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.artifacts.digests import combined_sha256, known_sha256
from evalsuite.artifacts.shard_index import read_json, read_shard_index
from evalsuite.errors import DataError, UsageError
from evalsuite.models.checkpoints.reading import read_safetensors

INDEX = "model_index.json"
CUSTOM_CODE = "custom_code"
"""In a plan's `network` when loading the pipeline runs code that is not diffusers' own."""
_LIBRARIES = ("diffusers", "transformers")
_STEMS = ("diffusion_pytorch_model", "model")
_WEIGHTS = re.compile(rf"({'|'.join(_STEMS)})(-\d{{5}}-of-\d{{5}})?\.safetensors")
_WEIGHT_INDEXES = tuple(f"{stem}.safetensors.index.json" for stem in _STEMS)
_SMALL = (".json", ".txt", ".model", ".py")
"""Configurations, tokenizers and programs."""


class Component(NamedTuple):
    """A part of a pipeline: the library of its class, or a module of its own, and the class."""

    library: str
    class_name: str


@dataclass(frozen=True)
class PipelineFolder:
    """What `model_index.json` says.

    Attributes:
        path: the folder.
        class_name: of the pipeline.
        module: file of the pipeline's own code, without suffix; None for a class of diffusers.
        components: by name; absent ones are left out.
        class_names: from `id2label`; None without one.
        code: why loading it would run code that is not diffusers' own; None when it would not.
    """

    path: Path
    class_name: str
    module: str | None
    components: Mapping[str, Component]
    class_names: tuple[str, ...] | None
    code: str | None

    @property
    def denoiser(self) -> str | None:
        """The component that is evaluated at each step."""
        return next((name for name in ("transformer", "unet") if name in self.components), None)

    def config(self, component: str | None) -> dict[str, Any]:
        """The configuration of a model; empty for an absent one."""
        if component is None or component not in self.components:
            return {}
        return read_json(self.path / component / "config.json")


def read_pipeline_folder(path: Path, *, trust_code: bool = False) -> PipelineFolder:
    """Read `model_index.json` and look at the weights' headers; nothing is executed.

    Args:
        path: the folder.
        trust_code: take folders with code of their own.

    Raises:
        DataError: there is no index, or weights are missing, pickled, or cut short.
        UsageError: the folder holds code and it was not allowed.
    """
    if not (path / INDEX).is_file():
        raise DataError(f"{path} is no diffusers pipeline: it has no {INDEX}")
    index = read_json(path / INDEX)
    module, class_name = _pipeline_class(index, path)
    components = _components(index, path)
    code = _code_in(path, module, components)
    if code is not None and not trust_code:
        raise UsageError(
            f"{path.name}: {code}, which would run here: look at it, then add --trust-remote-code"
        )
    for name in components:
        _check_weights(path / name)
    return PipelineFolder(path, class_name, module, components, _class_names(index, path), code)


def pipeline_sha256(folder: Path) -> str:
    """One digest for all files that decide pixels, whoever downloaded or copied the folder.

    They are `model_index.json` and, of each component that it names, the weights that are loaded by
    default, configurations and tokenizer files, and all Python files. Variants such as
    `*.fp16.safetensors`, pickles, model cards and other folders are left out.
    """
    files = {path.relative_to(folder).as_posix(): path for path in _deciding_files(folder)}
    return combined_sha256({name: known_sha256(path) for name, path in sorted(files.items())})


def weights_sha256_of(component: Path) -> str:
    """One digest for the weights files of a component."""
    weights = [path for path in component.iterdir() if _WEIGHTS.fullmatch(path.name)]
    return combined_sha256({path.name: known_sha256(path) for path in sorted(weights)})


def _deciding_files(folder: Path) -> Iterator[Path]:
    yield folder / INDEX
    yield from folder.rglob("*.py")
    for name in _components(read_json(folder / INDEX), folder):
        for path in (folder / name).rglob("*"):
            variant = ".index." in path.name and path.name not in _WEIGHT_INDEXES
            small = path.suffix in _SMALL and not variant
            if path.is_file() and (small or _WEIGHTS.fullmatch(path.name)):
                yield path


def _pipeline_class(index: Mapping[str, Any], path: Path) -> tuple[str | None, str]:
    """The pipeline's own module, if it has one, and its class."""
    name = index.get("_class_name")
    if isinstance(name, str) and name.isidentifier():
        return None, name
    if isinstance(name, list) and len(name) == 2 and all(_is_identifier(part) for part in name):
        return name[0], name[1]
    raise DataError(f"{path / INDEX}: _class_name {name!r} names no class")


def _components(index: Mapping[str, Any], path: Path) -> dict[str, Component]:
    found: dict[str, Component] = {}
    for name, entry in index.items():
        pair = isinstance(entry, list) and len(entry) == 2 and not name.startswith("_")
        if not pair or entry[0] is None:
            continue
        if not (name.isidentifier() and all(isinstance(part, str) for part in entry)):
            raise DataError(f"{path / INDEX}: {name!r}: {entry!r} is no component")
        if not (path / name).is_dir():
            raise DataError(f"{path.name}: the folder of its component {name} is missing")
        found[name] = Component(*entry)
    return found


def _code_in(path: Path, module: str | None, components: Mapping[str, Component]) -> str | None:
    """Why code would run, or could under some version of diffusers."""
    if module is not None:
        return f"its pipeline is code of its own ({module}.py)"
    for folder in (path, *(path / name for name in components)):  # components may be links
        for file in sorted(folder.rglob("*.py")):
            return f"it holds code ({file.relative_to(path).as_posix()})"
    for name, component in components.items():
        if component.library not in _LIBRARIES and not _is_pipeline_module(component.library):
            return f"its {name} is code of its own ({component.library})"
        config = path / name / "config.json"
        if config.is_file() and "auto_map" in read_json(config):
            return f"the configuration of its {name} names code (auto_map)"
    return None


def _is_pipeline_module(name: str) -> bool:
    """Whether it is one of diffusers' own folders, such as that of the safety checker."""
    from diffusers import pipelines

    return name.isidentifier() and hasattr(pipelines, name)


def _check_weights(component: Path) -> None:
    """The weights of a model are here as safetensors, whole."""
    if not (component / "config.json").is_file():
        return  # a scheduler, a tokenizer or an image processor
    for name in _WEIGHT_INDEXES:
        if (component / name).is_file():
            read_shard_index(component / name)
    weights = sorted(path for path in component.iterdir() if _WEIGHTS.fullmatch(path.name))
    if not weights:
        raise DataError(
            f"{component} holds no safetensors weights: pickles and variants such as fp16 are not"
            " read; save the pipeline again with save_pretrained"
        )
    for path in weights:
        read_safetensors(path)


def _class_names(index: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    names = index.get("id2label")
    if names is None:
        return None
    labels = [str(label) for label in range(len(names))] if isinstance(names, dict) else []
    if not labels or set(names) != set(labels) or not all(map(_is_name, names.values())):
        raise DataError(f"{path / INDEX}: id2label does not name the classes 0..N-1 once each")
    return tuple(names[label] for label in labels)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_identifier(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()
