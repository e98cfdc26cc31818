"""Loading a diffusers pipeline strictly: the plan's versions, and every weight from its files."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import torch

from evalsuite.config import Scalar
from evalsuite.errors import DataError, EnvironmentProblem
from evalsuite.models.diffusers_folder import Component, PipelineFolder


def versions_of(folder: PipelineFolder) -> dict[str, str]:
    """Versions of the libraries whose code computes."""
    libraries = {part.library for part in folder.components.values()}
    others = {"transformers"} if libraries - {"diffusers"} else set()
    return {name: importlib.metadata.version(name) for name in sorted({"diffusers"} | others)}


def check_versions(network: Mapping[str, Scalar]) -> None:
    """Raise EnvironmentProblem unless the libraries are the plan's: their code decides pixels."""
    for name in ("diffusers", "transformers"):
        if name in network and importlib.metadata.version(name) != network[name]:
            raise EnvironmentProblem(
                f"the plan is of {name} {network[name]}, here is"
                f" {importlib.metadata.version(name)}: install the plan's version"
            )


def loaded_pipeline(kind: Any, folder: PipelineFolder, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """The pipeline on the CPU, every weight of it from its files.

    Raises:
        DataError: weights are missing or do not fit their configuration.
    """
    common: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    trust = {"trust_remote_code": True} if folder.code else {}
    try:
        return kind.from_pretrained(str(folder.path), **common, **trust, **_models(folder, common))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"{folder.path.name} cannot be loaded by diffusers: {error}") from error


def _models(folder: PipelineFolder, common: Mapping[str, Any]) -> dict[str, Any]:
    """Its models, loaded one by one: the pipeline itself makes up what a file lacks at random.

    Models that are code of the folder are left to the pipeline.
    """
    models: dict[str, Any] = {}
    for name, part in folder.components.items():
        place = folder.path / name
        if not (place / "config.json").is_file():
            continue
        kind = _class_of(part)
        if kind is None and folder.code:
            continue
        if kind is None:
            raise DataError(f"{folder.path.name}: {part.library} has no class {part.class_name}")
        models[name], info = kind.from_pretrained(str(place), output_loading_info=True, **common)
        missing = sorted(map(str, info["missing_keys"]))
        if missing:
            raise DataError(
                f"{folder.path.name}: the weights of {name} lack {len(missing)} tensor(s):"
                f" {', '.join(missing[:3])}"
            )
    return models


def _class_of(part: Component) -> Any:  # noqa: ANN401 - a class without types
    """The class of one of the two libraries, or of a folder of diffusers' pipelines; else None."""
    import diffusers

    module: Any = getattr(diffusers.pipelines, part.library, None)
    if part.library == "diffusers":
        module = diffusers
    elif part.library == "transformers":
        import transformers

        module = transformers
    return getattr(module, part.class_name, None)
